"""Meshes as binary glTF 2.0 with colours per vertex.

glTF has y up and looks along -z, and its vertex colours are linear light; the world of the reconstruction has y down
and z forward, and photo colours are sRGB. The mesh is turned by diag(1, -1, -1) and its colours are decoded.

Source: glTF 2.0 specification, sections 3.4 (coordinates), 3.7.2 (meshes) and 4.4 (binary container).
"""

from __future__ import annotations

import json
import struct

import numpy as np
from jaxtyping import Float, Int, UInt8

GLTF_FROM_OPENCV = np.array([1.0, -1.0, -1.0], np.float32)
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125


def encode_glb(
    vertices: Float[np.ndarray, "N 3"],
    normals: Float[np.ndarray, "N 3"],
    rgb: UInt8[np.ndarray, "N 3"],
    faces: Int[np.ndarray, "F 3"],
) -> bytes:
    """Bytes of a .glb with one mesh.

    Args:
        vertices: in the world of the cameras (OpenCV axes).
        normals: unit length, same frame.
        rgb: sRGB colours.
        faces: counter-clockwise seen from outside.
    """
    position = (vertices * GLTF_FROM_OPENCV).astype("<f4")
    colour = np.full((len(rgb), 4), 65535, "<u2")
    colour[:, :3] = np.round(_linear_from_srgb(rgb / 255.0) * 65535)
    parts = [
        (position, _FLOAT, "VEC3", _ARRAY_BUFFER),
        ((normals * GLTF_FROM_OPENCV).astype("<f4"), _FLOAT, "VEC3", _ARRAY_BUFFER),
        (colour, _UINT16, "VEC4", _ARRAY_BUFFER),
        (faces.astype("<u4").reshape(-1), _UINT32, "SCALAR", _ELEMENT_ARRAY_BUFFER),
    ]
    views, accessors, body = [], [], b""
    for index, (array, component, kind, target) in enumerate(parts):
        data = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data), "target": target})
        accessors.append({"bufferView": index, "componentType": component, "count": len(array), "type": kind})
        body += data
    accessors[0] |= {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    accessors[2]["normalized"] = True
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0, "mode": 4}
    document = {
        "asset": {"version": "2.0", "generator": "flarecli"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "scene"}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}, "doubleSided": True}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body += b"\0" * (-len(body) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _linear_from_srgb(value: np.ndarray) -> np.ndarray:
    """Source: IEC 61966-2-1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
