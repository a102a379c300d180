// Ray caster of the procedural scenes: one source for CUDA (NVRTC, one ray per thread, LANES 1) and the CPU (g++, LANES
// rays side by side so that the compiler can use vector registers).
//
// A scene is a table of PRIMS records of RECORD floats (train/primitives.py writes them, same order as the enum below).
// A camera is 14 floats: centre (3), camera-to-world rotation (9, row-major), focal length / long image side, and 1 where
// the image is stored transposed (portrait). Rays have unit camera depth, so the ray parameter t is the z-depth.
// The header is compiled with -D RECORD, PRIMS, LANES.

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define INLINE __device__ __forceinline__
#define LANE_LOOP
#else
#include <math.h>
#define INLINE static inline __attribute__((always_inline))
#define LANE_LOOP _Pragma("GCC ivdep")
#endif
#define EACH_LANE for (int l = 0; l < LANES; l++)

enum Field {
  MATRIX = 0, CENTRE = 9, KIND = 12, CUTOUT = 13, TAPER = 18, DOME = 19, HALF = 20, UV_SCALE = 23, UV_OFFSET = 24,
  UV_TURN = 26, TINT = 27, GLOSS = 30, EMISSION = 31, PLAIN = 32, DETAIL = 33, DETAIL_TEXTURE = 34, TEXTURES = 35
};
enum Kind { ABSENT = 0, BOX = 1, ELLIPSOID = 2, CONE = 3, SHEET = 4 };

#define MISS 1e6f
#define NEAREST 1e-4f
#define MAX_RADIANCE 1.6f

typedef unsigned char byte;
typedef struct { float x, y, z; } Vec;
typedef struct { float ox[LANES], oy[LANES], oz[LANES], dx[LANES], dy[LANES], dz[LANES]; } Rays;
typedef struct { const int *texels, *offsets; int levels, size; } Textures;
typedef struct { int height, width, samples, shadows; } Shape;

INLINE float nonzero(float v) { return fabsf(v) < 1e-9f ? 1e-9f : v; }
INLINE float clamp(float v, float low, float high) { return fminf(fmaxf(v, low), high); }
INLINE float dot(Vec a, Vec b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
INLINE Vec vec(float x, float y, float z) { Vec v; v.x = x; v.y = y; v.z = z; return v; }
INLINE Vec scaled(Vec v, float s) { return vec(v.x * s, v.y * s, v.z * s); }
INLINE Vec unit(Vec v) { return scaled(v, 1.f / sqrtf(fmaxf(dot(v, v), 1e-12f))); }
INLINE Vec to_local(const float *m, float x, float y, float z) {
  return vec(m[0] * x + m[1] * y + m[2] * z, m[3] * x + m[4] * y + m[5] * z, m[6] * x + m[7] * y + m[8] * z);
}

// Every hit_* takes a ray in the local frame of a unit primitive and returns t, or MISS.

INLINE float hit_box(Vec o, Vec d) {
  float ix = 1.f / nonzero(d.x), iy = 1.f / nonzero(d.y), iz = 1.f / nonzero(d.z);
  float x0 = (-1.f - o.x) * ix, x1 = (1.f - o.x) * ix, y0 = (-1.f - o.y) * iy, y1 = (1.f - o.y) * iy;
  float z0 = (-1.f - o.z) * iz, z1 = (1.f - o.z) * iz;
  float enter = fmaxf(fmaxf(fminf(x0, x1), fminf(y0, y1)), fminf(z0, z1));
  float leave = fminf(fminf(fmaxf(x0, x1), fmaxf(y0, y1)), fmaxf(z0, z1));
  float t = enter > NEAREST ? enter : leave;
  return ((leave >= enter) & (t > NEAREST)) ? t : MISS;
}

INLINE float hit_ellipsoid(Vec o, Vec d) {
  float a = dot(d, d), b = dot(o, d), c = dot(o, o) - 1.f, disc = b * b - a * c;
  float root = sqrtf(fmaxf(disc, 0.f)), near = (-b - root) / a, far = (-b + root) / a;
  float t = near > NEAREST ? near : far;
  return ((disc > 0.f) & (t > NEAREST)) ? t : MISS;
}

// A frustum of radius 1 at z = -1 and `taper` at z = 1, with both lids.
INLINE float hit_cone(Vec o, Vec d, float taper) {
  float slope = (taper - 1.f) * .5f, radius = (1.f + taper) * .5f + slope * o.z, grow = slope * d.z;
  float a = d.x * d.x + d.y * d.y - grow * grow, b = o.x * d.x + o.y * d.y - radius * grow;
  float c = o.x * o.x + o.y * o.y - radius * radius, disc = b * b - nonzero(a) * c;
  float root = sqrtf(fmaxf(disc, 0.f)), ia = 1.f / nonzero(a), r0 = (-b - root) * ia, r1 = (-b + root) * ia;
  float near = fminf(r0, r1), far = fmaxf(r0, r1);
  int near_ok = (disc > 0.f) & (fabsf(o.z + near * d.z) <= 1.f) & (near > NEAREST);
  int far_ok = (disc > 0.f) & (fabsf(o.z + far * d.z) <= 1.f) & (far > NEAREST);
  float side = near_ok ? near : (far_ok ? far : MISS);
  float iz = 1.f / nonzero(d.z), top = (1.f - o.z) * iz, bottom = (-1.f - o.z) * iz;
  float tx = o.x + top * d.x, ty = o.y + top * d.y, bx = o.x + bottom * d.x, by = o.y + bottom * d.y;
  float lid = ((tx * tx + ty * ty <= taper * taper) & (top > NEAREST)) ? top : MISS;
  float base = ((bx * bx + by * by <= 1.f) & (bottom > NEAREST)) ? bottom : MISS;
  return fminf(side, fminf(lid, base));
}

// A flat sheet in z = 0 with a procedural outline: whole, disc, lattice, blobs, rounded.
INLINE float hit_sheet(Vec o, Vec d, const float *cutout) {
  float style = cutout[0], fu = cutout[1], fv = cutout[2], phase = cutout[3], level = cutout[4];
  float t = -o.z / nonzero(d.z), u = clamp(o.x + t * d.x, -2.f, 2.f), v = clamp(o.y + t * d.y, -2.f, 2.f), solid;
  if (style < 1.f) solid = 1.f;
  else if (style < 2.f) solid = 1.f - u * u - v * v;
  else if (style < 3.f) solid = fmaxf(fabsf(sinf(fu * u + phase)), fabsf(sinf(fv * v))) - .8f;
  else if (style < 4.f) solid = sinf(fu * u + phase) + sinf(fv * v + 2.f * phase) + sinf(.6f * fu * (u + v)) - level;
  else solid = .7f - u * u * u * u - v * v * v * v + .4f * sinf(fu * u + phase) * sinf(fv * v);
  return ((fabsf(u) < 1.f) & (fabsf(v) < 1.f) & (t > NEAREST) & (solid > 0.f)) ? t : MISS;
}

#define FOR_RAYS(CALL)                                                                                          \
  LANE_LOOP EACH_LANE {                                                                                         \
    Vec o = to_local(p + MATRIX, r->ox[l] - p[CENTRE], r->oy[l] - p[CENTRE + 1], r->oz[l] - p[CENTRE + 2]);     \
    Vec d = to_local(p + MATRIX, r->dx[l], r->dy[l], r->dz[l]);                                                 \
    hit[l] = CALL;                                                                                              \
  }

INLINE void intersect(const float *p, const Rays *r, float *hit) {
  int kind = (int)p[KIND];
  if (kind == BOX) { FOR_RAYS(hit_box(o, d)) }
  else if (kind == ELLIPSOID) { FOR_RAYS(hit_ellipsoid(o, d)) }
  else if (kind == CONE) { FOR_RAYS(hit_cone(o, d, p[TAPER])) }
  else { FOR_RAYS(hit_sheet(o, d, p + CUTOUT)) }
}

INLINE void find_nearest(const float *scene, const Rays *r, float *depth, float *which) {
  float hit[LANES];
  EACH_LANE { depth[l] = MISS; which[l] = -1.f; }
  for (int k = 0; k < PRIMS; k++) {
    const float *p = scene + k * RECORD;
    if (p[KIND] < .5f) continue;
    intersect(p, r, hit);
    LANE_LOOP EACH_LANE { int closer = hit[l] < depth[l]; depth[l] = closer ? hit[l] : depth[l]; which[l] = closer ? (float)k : which[l]; }
  }
}

// Directions reach exactly to the light at t = 1; the dome of the sky throws no shadow.
INLINE void find_shadow(const float *scene, const Rays *r, float *shadow) {
  float hit[LANES];
  EACH_LANE shadow[l] = 0.f;
  for (int k = 0; k < PRIMS; k++) {
    const float *p = scene + k * RECORD;
    if ((p[KIND] < .5f) | (p[DOME] > .5f)) continue;
    intersect(p, r, hit);
    LANE_LOOP EACH_LANE shadow[l] = ((hit[l] < .995f) & (hit[l] > 1e-3f)) ? 1.f : shadow[l];
  }
}

// Bilinear, mirrored repeat, at one whole mip level. A texel is red | green << 8 | blue << 16.
INLINE Vec texel(const Textures *tex, int index, float u, float v, float level) {
  int lv = (int)clamp(level, 0.f, (float)(tex->levels - 1)), side = tex->size >> lv;
  u = fabsf(u - 2.f * floorf(u * .5f) - 1.f) * (side - 1);
  v = fabsf(v - 2.f * floorf(v * .5f) - 1.f) * (side - 1);
  int x0 = (int)u, y0 = (int)v, x1 = x0 + 1 < side ? x0 + 1 : side - 1, y1 = y0 + 1 < side ? y0 + 1 : side - 1;
  float fx = u - x0, fy = v - y0;
  const int *base = tex->texels + tex->offsets[lv] + (long)index * side * side;
  int q[4] = {base[y0 * side + x0], base[y0 * side + x1], base[y1 * side + x0], base[y1 * side + x1]};
  float w[4] = {(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy};
  Vec c = vec(0.f, 0.f, 0.f);
  for (int i = 0; i < 4; i++) {
    c.x += w[i] * (q[i] & 255); c.y += w[i] * ((q[i] >> 8) & 255); c.z += w[i] * ((q[i] >> 16) & 255);
  }
  return scaled(c, 1.f / 255.f);
}

typedef struct { Vec albedo, normal, position; float gloss, emission; } Surface;

INLINE Vec local_normal(int kind, Vec q, int face, int lid) {
  if (kind == BOX) {
    if (face < 2) return vec(q.x >= 0.f ? 1.f : -1.f, 0.f, 0.f);
    if (face < 4) return vec(0.f, q.y >= 0.f ? 1.f : -1.f, 0.f);
    return vec(0.f, 0.f, q.z >= 0.f ? 1.f : -1.f);
  }
  if (kind == ELLIPSOID) return q;
  if (kind == CONE && !lid) return vec(q.x, q.y, 0.f);
  return vec(0.f, 0.f, q.z >= 0.f ? 1.f : -1.f);
}

INLINE Vec albedo(const float *p, const Textures *tex, int face, float u, float v, float level) {
  Vec c = texel(tex, (int)p[TEXTURES + face], u, v, level);
  if (p[DETAIL] > 0.f) {
    Vec e = texel(tex, (int)p[DETAIL_TEXTURE], u * 3.7f + .3f, v * 3.7f - .2f, level + 1.9f);
    c = scaled(c, 1.f + p[DETAIL] * ((e.x + e.y + e.z) * (2.f / 3.f) - 1.f) * .9f);
  }
  float flat = 1.f + .25f * ((c.x + c.y + c.z) / 3.f - .45f);
  if (p[PLAIN] > .5f) c = vec(flat, flat, flat);
  return vec(c.x * p[TINT], c.y * p[TINT + 1], c.z * p[TINT + 2]);
}

INLINE Surface surface(const float *p, const Textures *tex, Vec origin, Vec dir, float t, float pixel) {
  Surface s;
  s.position = vec(origin.x + t * dir.x, origin.y + t * dir.y, origin.z + t * dir.z);
  Vec q = to_local(p + MATRIX, s.position.x - p[CENTRE], s.position.y - p[CENTRE + 1], s.position.z - p[CENTRE + 2]);
  int kind = (int)p[KIND], dome = p[DOME] > .5f, lid = kind == CONE && fabsf(q.z) > .9995f;
  float ax = fabsf(q.x), ay = fabsf(q.y), az = fabsf(q.z);
  int face = ax >= ay && ax >= az ? (q.x > 0.f ? 0 : 1) : ay >= az ? (q.y > 0.f ? 2 : 3) : (q.z > 0.f ? 4 : 5);
  Vec n = local_normal(kind, q, face, lid);
  const float *m = p + MATRIX;
  n = unit(vec(m[0] * n.x + m[3] * n.y + m[6] * n.z, m[1] * n.x + m[4] * n.y + m[7] * n.z, m[2] * n.x + m[5] * n.y + m[8] * n.z));
  float facing = dot(n, dir), speed = sqrtf(dot(dir, dir)), cosine = fmaxf(fabsf(facing) / speed, .08f);
  s.normal = facing > 0.f ? scaled(n, -1.f) : n;
  float x = q.x * p[HALF], y = q.y * p[HALF + 1], z = q.z * p[HALF + 2], around = atan2f(q.y, q.x), a, b;
  if (kind == CONE && !lid) { a = around * p[HALF]; b = z; }
  else if (kind == CONE || kind == SHEET) { a = x; b = y; }
  else { a = face < 2 ? y : x; b = face < 4 ? z : y; }
  float c = cosf(p[UV_TURN]), d = sinf(p[UV_TURN]);
  float u = (c * a - d * b) * p[UV_SCALE] + p[UV_OFFSET], v = (d * a + c * b) * p[UV_SCALE] + p[UV_OFFSET + 1];
  float footprint = t * pixel * speed / cosine * p[UV_SCALE] * tex->size;
  if (dome) {
    u = around * (2.f / 3.14159f) + p[UV_OFFSET];
    v = -(asinf(clamp(q.z, -1.f, 1.f)) * .9f + .2f);
    footprint = pixel * tex->size * .64f;
  }
  if (kind == SHEET || dome || (kind == CONE && !lid)) face = 0; else if (lid) face = 4;
  s.albedo = albedo(p, tex, face, u, v, log2f(fmaxf(footprint, 1e-3f)) + .3f);
  s.gloss = p[GLOSS];
  s.emission = p[EMISSION];
  return s;
}

// light: position (3), ambient, colour (3). Lambert + one Blinn highlight of exponent 24.
INLINE Vec shade(const Surface *s, Vec dir, const float *light, float shadow) {
  if (s->emission > .5f) return s->albedo;
  Vec to_light = unit(vec(light[0] - s->position.x, light[1] - s->position.y, light[2] - s->position.z));
  Vec view = unit(dir), half = unit(vec(to_light.x - view.x, to_light.y - view.y, to_light.z - view.z));
  float lit = 1.f - shadow, diffuse = fmaxf(dot(s->normal, to_light), 0.f) * lit;
  float shine = fmaxf(dot(s->normal, half), 0.f), p2 = shine * shine, p8 = p2 * p2 * p2 * p2, glint = p8 * p8 * p8 * s->gloss * lit;
  float ambient = light[3] * (.75f + .25f * s->normal.z), amount = ambient + (1.15f - ambient * .6f) * diffuse;
  return vec(s->albedo.x * amount * light[4] + glint, s->albedo.y * amount * light[5] + glint, s->albedo.z * amount * light[6] + glint);
}

INLINE void aim(const float *cam, const Shape *shape, int first, float sub_x, float sub_y, Rays *r) {
  const float *m = cam + 3;
  int width = shape->width, last = shape->height * width - 1;
  EACH_LANE {
    int pixel = first + l < last ? first + l : last;
    float across = ((pixel % width + .5f + sub_x) - .5f * width) / (width * cam[12]);
    float down = ((pixel / width + .5f + sub_y) - .5f * shape->height) / (width * cam[12]);
    float x = cam[13] > .5f ? down : across, y = cam[13] > .5f ? across : down;
    r->ox[l] = cam[0]; r->oy[l] = cam[1]; r->oz[l] = cam[2];
    r->dx[l] = m[0] * x + m[1] * y + m[2]; r->dy[l] = m[3] * x + m[4] * y + m[5]; r->dz[l] = m[6] * x + m[7] * y + m[8];
  }
}

INLINE void colour(const float *scene, const float *cam, const float *light, const Textures *tex, const Shape *shape,
                   const Rays *r, const float *depth, const float *which, Vec *sum) {
  Surface s[LANES];
  Rays back;
  float shadow[LANES], pixel = 1.f / (cam[12] * shape->width);
  EACH_LANE {
    float t = fminf(depth[l], 200.f), lift = 2e-3f * fminf(t, 50.f) + 1e-3f;
    int k = which[l] < 0.f ? 0 : (int)which[l];
    s[l] = surface(scene + k * RECORD, tex, vec(r->ox[l], r->oy[l], r->oz[l]), vec(r->dx[l], r->dy[l], r->dz[l]), t, pixel);
    back.ox[l] = s[l].position.x + s[l].normal.x * lift; back.oy[l] = s[l].position.y + s[l].normal.y * lift;
    back.oz[l] = s[l].position.z + s[l].normal.z * lift;
    back.dx[l] = light[0] - s[l].position.x; back.dy[l] = light[1] - s[l].position.y; back.dz[l] = light[2] - s[l].position.z;
    shadow[l] = 0.f;
  }
  if (shape->shadows) find_shadow(scene, &back, shadow);
  EACH_LANE {
    Vec c = which[l] < 0.f ? vec(0.f, 0.f, 0.f) : shade(&s[l], vec(r->dx[l], r->dy[l], r->dz[l]), light, shadow[l]);
    sum[l].x += clamp(c.x, 0.f, MAX_RADIANCE); sum[l].y += clamp(c.y, 0.f, MAX_RADIANCE); sum[l].z += clamp(c.z, 0.f, MAX_RADIANCE);
  }
}

// LANES pixels from `first` on. depth and id belong to the pixel centre; colour is the mean of samples x samples rays.
// samples = 0 leaves the colours alone.
INLINE void render_pixels(const float *scene, const float *cam, const float *light, const Textures *tex, const Shape *shape,
                          int first, float *rgb, float *depth_out, byte *id_out) {
  int n = shape->height * shape->width, ss = shape->samples;
  Rays r;
  float depth[LANES], which[LANES];
  Vec sum[LANES];
  EACH_LANE sum[l] = vec(0.f, 0.f, 0.f);
  aim(cam, shape, first, 0.f, 0.f, &r);
  find_nearest(scene, &r, depth, which);
  EACH_LANE if (first + l < n) { depth_out[first + l] = depth[l]; id_out[first + l] = which[l] < 0.f ? 255 : (byte)which[l]; }
  for (int i = 0; i < ss * ss; i++) {
    if (ss > 1) {
      aim(cam, shape, first, (i % ss + .5f) / ss - .5f, (i / ss + .5f) / ss - .5f, &r);
      find_nearest(scene, &r, depth, which);
    }
    colour(scene, cam, light, tex, shape, &r, depth, which, sum);
  }
  if (ss == 0) return;
  float share = 1.f / (ss * ss);
  EACH_LANE if (first + l < n) {
    rgb[first + l] = sum[l].x * share; rgb[n + first + l] = sum[l].y * share; rgb[2 * n + first + l] = sum[l].z * share;
  }
}

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
extern "C" __global__ void render_kernel(const float *scenes, const int *scene_of, const float *cams, const float *lights,
                                         const int *texels, const int *offsets, int levels, int size, int images, int height,
                                         int width, int samples, int shadows, float *rgb, float *depth, byte *id) {
  __shared__ float scene[PRIMS * RECORD];
  long image = blockIdx.y, n = (long)height * width;
  for (int j = threadIdx.x; j < PRIMS * RECORD; j += blockDim.x) scene[j] = scenes[(long)scene_of[image] * PRIMS * RECORD + j];
  __syncthreads();
  int pixel = blockIdx.x * blockDim.x + threadIdx.x;
  if (pixel >= n) return;
  Textures tex; tex.texels = texels; tex.offsets = offsets; tex.levels = levels; tex.size = size;
  Shape shape; shape.height = height; shape.width = width; shape.samples = samples; shape.shadows = shadows;
  render_pixels(scene, cams + image * 14, lights + scene_of[image] * 7, &tex, &shape, pixel, rgb + image * 3 * n, depth + image * n, id + image * n);
}
#else
extern "C" void render_images(const float *scenes, const int *scene_of, const float *cams, const float *lights,
                              const int *texels, const int *offsets, int levels, int size, int images, int height,
                              int width, int samples, int shadows, float *rgb, float *depth, byte *id) {
  long n = (long)height * width;
  Textures tex = {texels, offsets, levels, size};
  Shape shape = {height, width, samples, shadows};
  for (long i = 0; i < images; i++)
    for (int pixel = 0; pixel < n; pixel += LANES)
      render_pixels(scenes + (long)scene_of[i] * PRIMS * RECORD, cams + i * 14, lights + scene_of[i] * 7, &tex, &shape, pixel,
                    rgb + i * 3 * n, depth + i * n, id + i * n);
}
#endif
