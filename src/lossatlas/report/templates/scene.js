"use strict";
// A loss landscape on a canvas: a lit surface, or a map from above. `window.Scene` is all it gives.
(function () {
  const FINE = 128, RISE = 0.62, FLOOR = -0.22, LEVELS = 14, SLOW = 900, FLIGHT = 700, HATCHED = 0.10, LENS = 0.31;
  const HOME = { azimuth: -2.25, elevation: 0.62, distance: 3.75, target: [0, 0, -0.1] };
  const INK = "#e8eff3", QUIET = "#a9bac4", PATH = "#ff7f2a", SURE = "#ffd34d", FAINT = "#b7c2c9";
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");

  // Gzip without a stream, which ends at no known time: pages are drawn before their load event.
  const LENGTHS = ranges(29, 3, (k) => (k < 8 || k === 28 ? 0 : (k - 4) >> 2)), DISTANCES = ranges(30, 1, (k) => (k < 4 ? 0 : (k - 2) >> 1));
  const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
  function ranges(count, first, bits) {
    const extra = Array.from({ length: count }, (_, k) => bits(k)), base = [first];
    for (let k = 1; k < count; k++) base.push(base[k - 1] + (1 << extra[k - 1]));
    if (first === 3) base[28] = 258;
    return { base, extra };
  }
  // A table from the next bits of the input to a symbol and its length, 4 bits.
  function huffman(lengths) {
    const most = Math.max(...lengths), table = new Uint16Array(1 << most);
    for (let length = 1, code = 0; length <= most; length++, code <<= 1)
      lengths.forEach((own, symbol) => {
        if (own !== length) return;
        let back = 0;
        for (let b = 0; b < length; b++) back |= ((code >> b) & 1) << (length - 1 - b);
        for (let at = back; at < table.length; at += 1 << length) table[at] = (symbol << 4) | length;
        code += 1;
      });
    return { table, mask: table.length - 1 };
  }
  const FIXED = [huffman(Array.from({ length: 288 }, (_, k) => (k < 144 ? 8 : k < 256 ? 9 : k < 280 ? 7 : 8))), huffman(Array(30).fill(5))];
  function inflate(text) {
    const raw = atob(text.trim()), input = new Uint8Array(raw.length);
    for (let k = 0; k < raw.length; k++) input[k] = raw.charCodeAt(k);
    // The header of Python's gzip has ten bytes; the last four bytes are the length.
    const output = new Uint8Array(new DataView(input.buffer).getUint32(input.length - 4, true));
    let at = 10, held = 0, count = 0, end = 0, last = false;
    function bits(n) {
      while (count < n) { held |= input[at++] << count; count += 8; }
      const value = held & ((1 << n) - 1);
      held >>>= n; count -= n;
      return value;
    }
    function symbol({ table, mask }) {
      while (count < 15) { held |= input[at++] << count; count += 8; }
      const entry = table[held & mask];
      held >>>= entry & 15; count -= entry & 15;
      return entry >> 4;
    }
    function codes() {
      const literals = bits(5) + 257, distances = bits(5) + 1, own = Array(19).fill(0), lengths = [];
      for (let k = bits(4) + 4, j = 0; j < k; j++) own[ORDER[j]] = bits(3);
      const tree = huffman(own);
      while (lengths.length < literals + distances) {
        const s = symbol(tree);
        if (s < 16) { lengths.push(s); continue; }
        const value = s === 16 ? lengths[lengths.length - 1] : 0;
        for (let k = s === 16 ? 3 + bits(2) : s === 17 ? 3 + bits(3) : 11 + bits(7); k > 0; k--) lengths.push(value);
      }
      return [huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals))];
    }
    while (!last) {
      last = bits(1) === 1;
      const kind = bits(2);
      if (kind === 0) {
        at -= count >> 3; held = count = 0;
        const size = input[at] | (input[at + 1] << 8);
        output.set(input.subarray(at + 4, at + 4 + size), end);
        at += 4 + size; end += size;
        continue;
      }
      const [literal, distance] = kind === 1 ? FIXED : codes();
      for (let s = symbol(literal); s !== 256; s = symbol(literal)) {
        if (s < 256) { output[end++] = s; continue; }
        const length = LENGTHS.base[s - 257] + bits(LENGTHS.extra[s - 257]), d = symbol(distance);
        for (let from = end - DISTANCES.base[d] - bits(DISTANCES.extra[d]), stop = end + length; end < stop;) output[end++] = output[from++];
      }
    }
    return output;
  }

  // Heights of losses, as `plots.scale.Scale` has them, from 0 (lowest) to 1 (highest).
  function spread(scale) {
    const plain = (v) => {
      if (scale.soft === null) return v;
      const climb = (v - scale.low) / scale.soft;
      return Math.sign(climb) * Math.log1p(Math.abs(climb));
    };
    const bottom = plain(scale.low), top = plain(scale.high);
    return (v) => (plain(v) - bottom) / (top - bottom || 1);
  }

  // The arrays of one survey; see `report/frames.py` for how they are packed.
  class Frame {
    constructor(about, grid, path, source) {
      Object.assign(this, about);
      this.grid = grid; this.path = path; this.source = source; this.cache = new Map();
      this.size = grid.x.length * grid.y.length;
    }
    load() {
      if (!this.arrays) this.decode();
      return this;
    }
    decode() {
      const bytes = inflate(this.source()), n = this.size, arrays = {};
      let at = 0;
      for (const field of this.fields) {
        const width = field.kind === "float" ? 4 : 2;
        const plain = new Uint8Array(width * n);
        for (let b = 0; b < width; b++)
          for (let k = 0; k < n; k++) plain[k * width + b] = bytes[at++];
        if (width === 4) arrays[field.name] = new Float32Array(plain.buffer);
        else {
          const step = (field.high - field.low) / 65534;
          arrays[field.name] = Float32Array.from(new Uint16Array(plain.buffer), (v) =>
            v === 65535 ? NaN : field.low + v * step);
        }
      }
      this.computed = new Uint8Array(n).map((_, k) => (bytes[at + (k >> 3)] >> (7 - (k & 7))) & 1);
      this.arrays = arrays;
    }
    // Whether some standard error is above a tenth of the range, which the surface hatches.
    get hatched() { return this.arrays.error.some((v) => v > HATCHED * (this.scale.high - this.scale.low)); }
    field(name) { return this.fields.find((f) => f.name === name); }
    // A field on the fine grid, from 0 to 1 on a scale.
    fine(name, scale) {
      const key = name + JSON.stringify(scale);
      if (!this.cache.has(key)) {
        if (this.cache.size > 3) this.cache.delete(this.cache.keys().next().value);
        const to = spread(scale), raw = this.arrays[name];
        const z = Float32Array.from(raw, (v) => (isFinite(v) ? to(v) : NaN));
        this.cache.set(key, refine(z, this.grid.x.length, this.grid.y.length));
      }
      return this.cache.get(key);
    }
    at(x, y, name) {
      const i = nearest(this.grid.x, x), j = nearest(this.grid.y, y), k = i * this.grid.y.length + j;
      return { value: this.arrays[name || "loss"][k], error: this.arrays.error[k], computed: this.computed[k],
               x: this.grid.x[i], y: this.grid.y[j] };
    }
  }

  const nearest = (axis, v) => {
    const n = axis.length, t = (v - axis[0]) / (axis[n - 1] - axis[0] || 1);
    return Math.min(Math.max(Math.round(t * (n - 1)), 0), n - 1);
  };

  // Monotone cubic interpolation: smooth, and without a minimum that the data do not have.
  function refine(z, nx, ny) {
    const fx = factor(nx), fy = factor(ny), mx = (nx - 1) * fx + 1, my = (ny - 1) * fy + 1;
    const mid = new Float32Array(mx * ny), out = new Float32Array(mx * my);
    for (let j = 0; j < ny; j++) along(z, j, ny, nx, fx, mid, j, ny);
    for (let i = 0; i < mx; i++) along(mid, i * ny, 1, ny, fy, out, i * my, 1);
    return { z: out, nx: mx, ny: my, fx, fy };
  }
  const factor = (n) => Math.max(1, Math.round(FINE / Math.max(n - 1, 1)));
  function along(src, from, stride, n, f, out, to, step) {
    const slope = new Float32Array(n), rise = (i) => src[from + (i + 1) * stride] - src[from + i * stride];
    for (let i = 0; i < n; i++) {
      const a = i > 0 ? rise(i - 1) : NaN, b = i < n - 1 ? rise(i) : NaN;
      if (isNaN(a) || isNaN(b)) slope[i] = isNaN(a) ? (isNaN(b) ? 0 : b) : a;
      else slope[i] = a * b <= 0 ? 0 : (2 * a * b) / (a + b);
    }
    for (let i = 0; i < n - 1; i++) {
      const a = src[from + i * stride], b = src[from + (i + 1) * stride];
      for (let k = 0; k < f; k++) {
        const t = k / f, u = t * t, w = u * t;
        out[to + (i * f + k) * step] = k === 0 ? a :
          (2 * w - 3 * u + 1) * a + (w - 2 * u + t) * slope[i] + (3 * u - 2 * w) * b + (w - u) * slope[i + 1];
      }
    }
    out[to + (n - 1) * f * step] = src[from + (n - 1) * stride];
  }

  const VERTEX = `#version 300 es
    in vec2 p; in float h; in vec2 slope; in float c; in float e; in float s; in float m;
    uniform mat4 M; uniform float rise, ground; uniform int flatten;
    out vec3 world; out vec2 tilt; out float shade, error, side, near;
    void main() {
      world = vec3(p, flatten == 1 ? ground : h * rise);
      tilt = slope * rise; shade = c; error = e; side = s; near = m;
      gl_Position = M * vec4(world, 1.0);
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float; precision highp int;
    in vec3 world; in vec2 tilt; in float shade, error, side, near;
    uniform sampler2D ramp; uniform vec3 light, eye, mark; uniform float lit, levels, chosen; uniform int flatten;
    out vec4 color;
    void main() {
      float q = shade * levels, w = fwidth(q);
      float line = 1.0 - smoothstep(0.0, 1.3, abs(fract(q - 0.5) - 0.5) / max(w, 1e-5));
      line *= 1.0 - smoothstep(0.35, 0.9, w);
      vec3 base = texture(ramp, vec2(clamp(shade, 0.0, 1.0), 0.5)).rgb;
      float edge = 1.0 - smoothstep(0.9, 2.2, abs(side) / max(fwidth(side), 1e-6));
      edge *= step(0.5, near);
      if (flatten == 1) {
        float rim_ = chosen * edge;
        color = vec4(mix(mix(base, vec3(0.75, 0.87, 0.95), 0.35), mark, rim_), 0.10 + 0.34 * line + 0.8 * rim_);
        return;
      }
      vec3 n = normalize(vec3(-tilt, 1.0)), v = normalize(eye - world), half_ = normalize(light + v);
      float diffuse = max(dot(n, light), 0.0), rim = pow(1.0 - max(dot(n, v), 0.0), 3.0);
      vec3 shaded = base * (0.40 + 0.78 * diffuse) + 0.20 * pow(max(dot(n, half_), 0.0), 24.0) + rim * vec3(0.05, 0.10, 0.14);
      vec3 found = mix(base, shaded, lit);
      found = mix(found, found * 1.25 + 0.10, line * 0.6);
      if (error > 0.10 && mod(gl_FragCoord.x + gl_FragCoord.y, 9.0) < 1.6) found *= 0.62;
      if (chosen > 0.0) {
        found = mix(found, side > 0.0 ? found * 1.12 + 0.03 : found * 0.52, chosen);
        found = mix(found, mark, edge * chosen);
      }
      color = vec4(min(found, vec3(0.97)), 1.0);
    }`;

  function program(gl) {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(made, shader);
    }
    gl.linkProgram(made);
    return gl.getProgramParameter(made, gl.LINK_STATUS) ? made : null;
  }

  // 256 colors between the stops, as RGBA.
  function ramp(colors) {
    const stops = colors.map((c) => [1, 3, 5].map((k) => parseInt(c.slice(k, k + 2), 16))), row = new Uint8Array(256 * 4);
    for (let k = 0; k < 256; k++) {
      const t = (k / 255) * (stops.length - 1), i = Math.min(Math.floor(t), stops.length - 2), f = t - i;
      row.set([...stops[i].map((v, n) => v + f * (stops[i + 1][n] - v)), 255], 4 * k);
    }
    return row;
  }

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = (a) => { const l = Math.hypot(...a) || 1; return a.map((v) => v / l); };
  const times = (a, b) => {
    const out = new Float32Array(16);
    for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++)
      for (let k = 0; k < 4; k++) out[c * 4 + r] += a[k * 4 + r] * b[c * 4 + k];
    return out;
  };
  function looking(eye, target, up) {
    const z = unit(sub(eye, target)), x = unit(cross(up, z)), y = cross(z, x);
    return new Float32Array([x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0,
                             -dot(x, eye), -dot(y, eye), -dot(z, eye), 1]);
  }

  class Camera {
    constructor() { this.views = new Set(); this.reset(false); }
    reset(fly = true) { this.to({ ...HOME, target: [...HOME.target] }, fly); }
    get eye() {
      const { azimuth: a, elevation: e, distance: d, target: t } = this;
      return [t[0] + d * Math.cos(e) * Math.cos(a), t[1] + d * Math.cos(e) * Math.sin(a), t[2] + d * Math.sin(e)];
    }
    set(changes) {
      Object.assign(this, changes);
      this.elevation = Math.min(Math.max(this.elevation, 0.05), 1.5);
      this.distance = Math.min(Math.max(this.distance, 0.7), 7);
      this.views.forEach((view) => view.draw());
    }
    to(goal, fly = true) {
      cancelAnimationFrame(this.flight);
      if (!fly || still.matches) { this.set(goal); return; }
      const from = { azimuth: this.azimuth, elevation: this.elevation, distance: this.distance, target: [...this.target] };
      const end = { ...from, ...goal }, start = performance.now();
      const tick = (now) => {
        const t = Math.min((now - start) / FLIGHT, 1), k = t * t * (3 - 2 * t), mix = (a, b) => a + k * (b - a);
        this.set({ azimuth: mix(from.azimuth, end.azimuth), elevation: mix(from.elevation, end.elevation),
                   distance: mix(from.distance, end.distance), target: from.target.map((v, i) => mix(v, end.target[i])) });
        if (t < 1) this.flight = requestAnimationFrame(tick);
      };
      this.flight = requestAnimationFrame(tick);
    }
  }

  class View {
    // `hooks`: onPick(basin bar or null), onDot(index of a point of the path).
    constructor(place, camera, hooks = {}) {
      this.place = place; this.camera = camera; this.hooks = hooks; this.mode = "surface"; this.name = "loss";
      this.canvas = document.createElement("canvas"); this.over = document.createElement("canvas");
      this.over.tabIndex = 0;
      this.over.setAttribute("role", "img");
      this.tip = document.createElement("div"); this.tip.className = "tip"; this.tip.hidden = true;
      place.append(this.canvas, this.over, this.tip);
      this.gl = this.canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true, alpha: true });
      this.program = this.gl && program(this.gl);
      if (this.program) this.prepare();
      camera.views.add(this);
      new ResizeObserver(() => this.resize()).observe(place);
      this.listen();
    }
    prepare() {
      const gl = this.gl;
      this.buffers = Object.fromEntries(["p", "h", "slope", "c", "e", "s", "m"].map((n) => [n, gl.createBuffer()]));
      this.index = gl.createBuffer(); this.ramp = gl.createTexture();
      gl.enable(gl.DEPTH_TEST); gl.enable(gl.BLEND);
      gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      this.places = {};
      for (const name of ["M", "rise", "ground", "flatten", "light", "eye", "mark", "lit", "levels", "chosen"])
        this.places[name] = gl.getUniformLocation(this.program, name);
    }
    // Show a frame; a change of heights on the same grid is a short movement.
    show(frame, { scale, mode = "surface", name = "loss", colors, tween = false } = {}) {
      const before = this.heights, same = before && this.frame && this.frame.grid === frame.grid;
      this.frame = frame; this.scale = scale; this.mode = mode; this.name = name; this.colors = colors;
      const loss = frame.fine("loss", scale), field = frame.field(name);
      this.shadeScale = name === "loss" ? scale : { low: field.low, high: field.high, soft: null };
      const shade = name === "loss" ? loss : frame.fine(name, this.shadeScale);
      this.goal = loss; this.shade = shade.z; this.to = spread(scale);
      const wide = frame.grid.x.at(-1) - frame.grid.x[0], high = frame.grid.y.at(-1) - frame.grid.y[0];
      const slope = high / wide, even = slope >= 1 / 3 && slope <= 3;
      this.half = even ? [1 / Math.max(1, slope), Math.min(1, slope)] : [1, 1];
      this.wide = wide;
      cancelAnimationFrame(this.motion);
      if (tween && same && !still.matches && name === "loss" && before.length === loss.z.length) this.move(before, loss.z);
      else { this.heights = loss.z; this.upload(); this.draw(); }
      this.over.setAttribute("aria-label", this.describe());
    }
    move(before, after) {
      const start = performance.now(), mixed = new Float32Array(after.length);
      const tick = (now) => {
        const t = Math.min((now - start) / 260, 1);
        for (let k = 0; k < after.length; k++) mixed[k] = before[k] + t * (after[k] - before[k]);
        this.heights = this.shade = t < 1 ? mixed : after;
        this.upload(); this.draw();
        if (t < 1) this.motion = requestAnimationFrame(tick);
      };
      this.motion = requestAnimationFrame(tick);
    }
    describe() {
      const what = this.mode === "surface" ? "Surface of the loss" : `Map of the ${this.name}`;
      return `${what}. ${this.frame.alt || ""} Arrow keys turn it, + and - zoom, R resets.`;
    }
    spot(x, y) {
      const { grid } = this.frame, u = (v, axis) => (2 * (v - axis[0])) / (axis.at(-1) - axis[0] || 1) - 1;
      return [u(x, grid.x) * this.half[0], u(y, grid.y) * this.half[1]];
    }
    where(p) {
      const { grid } = this.frame, v = (t, axis) => axis[0] + ((t + 1) / 2) * (axis.at(-1) - axis[0]);
      return [v(p[0] / this.half[0], grid.x), v(p[1] / this.half[1], grid.y)];
    }
    height(p) {
      const { nx, ny } = this.goal, z = this.heights;
      const s = ((p[0] / this.half[0] + 1) / 2) * (nx - 1), t = ((p[1] / this.half[1] + 1) / 2) * (ny - 1);
      if (!(s >= 0 && t >= 0 && s <= nx - 1 && t <= ny - 1)) return NaN;
      const i = Math.min(Math.floor(s), nx - 2), j = Math.min(Math.floor(t), ny - 2), a = s - i, b = t - j, k = i * ny + j;
      return ((1 - a) * ((1 - b) * z[k] + b * z[k + 1]) + a * ((1 - b) * z[k + ny] + b * z[k + ny + 1])) * RISE;
    }
    upload() {
      if (!this.program) return;
      const gl = this.gl, { nx, ny } = this.goal, z = this.heights, n = nx * ny;
      const key = `${nx},${ny},${this.half}`;
      if (this.key !== key) {
        this.key = key;
        const p = new Float32Array(2 * n);
        for (let i = 0; i < nx; i++) for (let j = 0; j < ny; j++) {
          p[2 * (i * ny + j)] = ((2 * i) / (nx - 1) - 1) * this.half[0];
          p[2 * (i * ny + j) + 1] = ((2 * j) / (ny - 1) - 1) * this.half[1];
        }
        this.send("p", p); this.holes = null;
      }
      const slope = new Float32Array(2 * n), dx = (2 * this.half[0]) / (nx - 1), dy = (2 * this.half[1]) / (ny - 1);
      let finite = 0;
      for (let i = 0; i < nx; i++) for (let j = 0; j < ny; j++) {
        const k = i * ny + j, here = z[k];
        finite += here === here;
        const l = i ? z[k - ny] : here, r = i < nx - 1 ? z[k + ny] : here, d = j ? z[k - 1] : here, u = j < ny - 1 ? z[k + 1] : here;
        slope[2 * k] = ((r === r ? r : here) - (l === l ? l : here)) / (dx * (i && i < nx - 1 ? 2 : 1));
        slope[2 * k + 1] = ((u === u ? u : here) - (d === d ? d : here)) / (dy * (j && j < ny - 1 ? 2 : 1));
      }
      this.send("h", z); this.send("slope", slope); this.send("c", this.shade); this.send("e", this.doubts()); this.side();
      if (this.holes !== finite || finite < n) this.triangles(z, nx, ny, finite);
      this.paint();
    }
    // Standard errors as a share of the range of the map.
    doubts() {
      const { nx, ny, fx, fy } = this.goal, raw = this.frame.arrays.error, out = new Float32Array(nx * ny);
      const range = this.scale.high - this.scale.low || 1, columns = this.frame.grid.y.length;
      for (let i = 0; i < nx; i++) for (let j = 0; j < ny; j++) {
        const v = raw[Math.round(i / fx) * columns + Math.round(j / fy)];
        out[i * ny + j] = v === v ? v / range : 0;
      }
      return out;
    }
    triangles(z, nx, ny, finite) {
      const gl = this.gl, out = new Uint32Array(6 * (nx - 1) * (ny - 1));
      let m = 0;
      for (let i = 0; i < nx - 1; i++) for (let j = 0; j < ny - 1; j++) {
        const a = i * ny + j, b = a + ny, c = a + 1, d = b + 1;
        if (isNaN(z[a] + z[b] + z[c] + z[d])) continue;
        out.set([a, b, c, c, b, d], m); m += 6;
      }
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.index);
      gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, out.subarray(0, m), gl.DYNAMIC_DRAW);
      this.count = m; this.holes = finite;
    }
    send(name, data) {
      const gl = this.gl;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    }
    paint() {
      const gl = this.gl, row = ramp(this.colors);
      gl.bindTexture(gl.TEXTURE_2D, this.ramp);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, row);
      for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
      for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.LINEAR);
    }
    outline(bar) {
      if (this.bar === bar) return;
      this.bar = bar;
      if (this.goal) { if (this.program) this.side(); this.draw(); }
    }
    // Positive inside the basin of a bar: what is joined to its minimum below its saddle.
    side() {
      const { nx, ny, fx, fy } = this.goal, z = this.goal.z, out = new Float32Array(nx * ny), ring = new Float32Array(nx * ny);
      if (this.bar && this.frame.bars.includes(this.bar)) {
        const level = this.to(this.bar.level), columns = this.frame.grid.y.length;
        const i0 = Math.floor(this.bar.at / columns), j0 = this.bar.at % columns;
        const seen = new Uint8Array(nx * ny), stack = [i0 * fx * ny + j0 * fy];
        for (let k = 0; k < z.length; k++) out[k] = -Math.max(Math.abs(level - z[k]), 0.004);
        seen[stack[0]] = 1;
        while (stack.length) {
          const k = stack.pop(), i = Math.floor(k / ny), j = k % ny;
          out[k] = Math.max(level - z[k], 1e-6);
          ring[k] = 1;
          for (let a = -1; a < 2; a++) for (let b = -1; b < 2; b++) {
            const r = i + a, c = j + b, m = r * ny + c;
            if (r < 0 || c < 0 || r >= nx || c >= ny) continue;
            ring[m] = 1;
            if (!seen[m]) out[m] = Math.min(level - z[m], 0);
            if (!seen[m] && z[m] < level) { seen[m] = 1; stack.push(m); }
          }
        }
        this.inside = seen;
      } else this.inside = null;
      this.send("s", out); this.send("m", ring);
    }
    fly(bar) {
      const [x, y] = this.spot(...bar.point), z = this.mode === "map" ? 0.12 : Math.max(this.height([x, y]) || 0, 0);
      this.camera.to({ target: [x, y, z], distance: Math.min(this.camera.distance, 1.7), elevation: Math.max(this.camera.elevation, 0.75) });
    }
    resize() {
      const box = this.place.getBoundingClientRect(), ratio = Math.min(window.devicePixelRatio || 1, 2);
      if (!box.width || !box.height) return;
      this.width = box.width; this.tall = box.height; this.ratio = ratio;
      for (const canvas of [this.canvas, this.over]) { canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio); }
      if (this.frame) this.draw();
    }
    matrix() {
      const aspect = this.width / this.tall, { camera } = this;
      if (this.mode === "map") {
        // Straight down, with room for the axes.
        const zoom = Math.min(HOME.distance / camera.distance, 4), [cx, cy] = zoom > 1 ? camera.target : [0, 0];
        const pad = this.width < 520 ? 46 : 58, right = this.width < 520 ? 22 : 92;
        const scale = Math.min((this.width - pad - right) / (2 * this.half[0]), (this.tall - 2 * pad) / (2 * this.half[1])) * Math.max(zoom, 1);
        const sx = (2 * scale) / this.width, sy = (2 * scale) / this.tall, ox = (pad - right) / this.width;
        this.eye = [0, 0, 10];
        return new Float32Array([sx, 0, 0, 0, 0, sy, 0, 0, 0, 0, -0.1, 0, -cx * sx + ox, -cy * sy + 0.02, 0, 1]);
      }
      const f = 1 / Math.tan(LENS), near = 0.05, far = 30, wide = this.lens(aspect);
      this.eye = camera.eye;
      const projection = new Float32Array([(f * wide) / aspect, 0, 0, 0, 0, f * wide, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0]);
      return times(projection, looking(this.eye, camera.target, [0, 0, 1]));
    }
    // How much smaller the picture is drawn so that from home no corner leaves the canvas as it turns.
    lens(aspect) {
      const { distance, elevation, target } = HOME, r = Math.hypot(...this.half), c = Math.cos(elevation), s = Math.sin(elevation);
      let wide = 0, high = 0;
      for (const z of [FLOOR - target[2], RISE - target[2]]) for (let k = 0; k < 24; k++) {
        const t = (k * Math.PI) / 12, near = r * Math.cos(t), depth = distance - near * c - z * s;
        wide = Math.max(wide, Math.abs(r * Math.sin(t)) / depth); high = Math.max(high, Math.abs(z * c - near * s) / depth);
      }
      return Math.min(1, 0.97 * Math.tan(LENS) * Math.min(aspect / wide, 1 / high));
    }
    draw() {
      if (this.pending || !this.frame) return;
      this.pending = true;
      requestAnimationFrame(() => { this.pending = false; this.render(); });
    }
    render() {
      if (!this.width) this.resize();
      if (!this.width || !this.goal) return;
      this.M = this.matrix();
      if (this.program) this.surface(); else this.plain();
      this.marks();
    }
    surface() {
      const gl = this.gl, at = this.places, top = this.mode === "map";
      gl.viewport(0, 0, this.canvas.width, this.canvas.height);
      gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.useProgram(this.program);
      for (const [name, size] of [["p", 2], ["h", 1], ["slope", 2], ["c", 1], ["e", 1], ["s", 1], ["m", 1]]) {
        const place = gl.getAttribLocation(this.program, name);
        if (place < 0) continue;
        gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
        gl.enableVertexAttribArray(place); gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
      }
      const a = top ? 2.4 : this.camera.azimuth + 0.9, light = unit([Math.cos(a), Math.sin(a), 0.85]);
      gl.uniformMatrix4fv(at.M, false, this.M);
      gl.uniform3fv(at.light, light); gl.uniform3fv(at.eye, this.eye); gl.uniform3fv(at.mark, [1, 0.83, 0.3]);
      gl.uniform1f(at.rise, RISE); gl.uniform1f(at.ground, FLOOR); gl.uniform1f(at.lit, top ? (this.name === "loss" ? 0.45 : 0) : 1);
      gl.uniform1f(at.levels, LEVELS); gl.uniform1f(at.chosen, this.inside ? 1 : 0);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.index);
      if (!top) { gl.uniform1i(at.flatten, 1); gl.depthMask(false); gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0); gl.depthMask(true); }
      gl.uniform1i(at.flatten, 0); gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
    }
    // Without WebGL 2: the map from above, cell by cell.
    plain() {
      this.mode = "map"; this.M = this.matrix();
      this.canvas.hidden = true;
    }
    project(p) {
      const M = this.M, w = M[3] * p[0] + M[7] * p[1] + M[11] * p[2] + M[15];
      const x = (M[0] * p[0] + M[4] * p[1] + M[8] * p[2] + M[12]) / w, y = (M[1] * p[0] + M[5] * p[1] + M[9] * p[2] + M[13]) / w;
      return [((x + 1) / 2) * this.width, ((1 - y) / 2) * this.tall];
    }
    // Whether nothing of the surface stands between a point and the eye.
    visible(p) {
      if (this.mode === "map") return true;
      const way = sub(this.eye, p);
      for (let k = 1; k <= 40; k++) {
        const t = 0.02 + (k / 40) * 0.75, q = [p[0] + t * way[0], p[1] + t * way[1], p[2] + t * way[2]];
        if (q[2] > RISE * 1.02) return true;
        if (this.height(q) > q[2] + 0.004) return false;
      }
      return true;
    }
    marks() {
      const g = this.over.getContext("2d");
      g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      g.clearRect(0, 0, this.width, this.tall);
      g.font = "12px system-ui, sans-serif"; g.lineJoin = g.lineCap = "round";
      if (!this.program) this.cells(g);
      this.axes(g);
      this.way(g);
      this.minima(g);
      this.bar_(g);
    }
    cells(g) {
      const row = ramp(this.colors);
      this.shades = Array.from({ length: 256 }, (_, k) => `rgb(${row[4 * k]}, ${row[4 * k + 1]}, ${row[4 * k + 2]})`);
      const { nx, ny, z } = this.goal, at = (i, j) => this.project([((2 * i) / (nx - 1) - 1) * this.half[0], ((2 * j) / (ny - 1) - 1) * this.half[1], 0]);
      for (let i = 0; i < nx - 1; i++) for (let j = 0; j < ny - 1; j++) {
        const [x0, y0] = at(i, j + 1), [x1, y1] = at(i + 1, j), v = this.shade[i * ny + j];
        if (isNaN(v)) continue;
        g.fillStyle = this.shades[Math.min(Math.max(Math.round(v * 255), 0), 255)];
        g.fillRect(x0, y0, x1 - x0 + 0.7, y1 - y0 + 0.7);
      }
    }
    axes(g) {
      const { grid } = this.frame, [a, b] = this.half, z = this.mode === "map" ? 0 : FLOOR;
      g.strokeStyle = "rgba(190, 210, 220, 0.45)"; g.lineWidth = 1; g.fillStyle = QUIET;
      g.beginPath();
      [[-a, -b], [a, -b], [a, b], [-a, b], [-a, -b]].forEach((p, k) => { const q = this.project([...p, z]); k ? g.lineTo(...q) : g.moveTo(...q); });
      g.stroke();
      if (this.mode === "map") return this.ticks(g, a, b);
      // The two sides of the floor that face the reader carry the names.
      const sides = [[[-a, -b], [a, -b], 0], [[a, -b], [a, b], 1], [[a, b], [-a, b], 0], [[-a, b], [-a, -b], 1]];
      const front = sides.map((s) => ({ s, y: this.project([(s[0][0] + s[1][0]) / 2, (s[0][1] + s[1][1]) / 2, z])[1] })).sort((p, q) => q.y - p.y).slice(0, 2);
      for (const { s } of front) {
        let [p, q] = [this.project([...s[0], z]), this.project([...s[1], z])];
        if (p[0] > q[0]) [p, q] = [q, p];
        g.save(); g.translate((p[0] + q[0]) / 2, (p[1] + q[1]) / 2); g.rotate(Math.atan2(q[1] - p[1], q[0] - p[0]));
        g.textAlign = "center"; g.textBaseline = "top"; g.fillText(cut(grid.labels[s[2]], this.width < 520 ? 18 : 34), 0, 7);
        g.restore();
      }
    }
    ticks(g, a, b) {
      const { grid } = this.frame;
      g.textAlign = "center"; g.textBaseline = "top";
      for (const v of rounded(grid.x)) { const [x, y] = this.project([this.spot(v, 0)[0], -b, 0]); g.fillText(short(v), x, y + 6); g.fillRect(x, y, 1, 4); }
      g.textAlign = "right"; g.textBaseline = "middle";
      for (const v of rounded(grid.y)) { const [x, y] = this.project([-a, this.spot(0, v)[1], 0]); g.fillText(short(v), x - 6, y); g.fillRect(x - 4, y, 4, 1); }
      const [x, y] = this.project([0, -b, 0]), [u, v] = this.project([-a, 0, 0]);
      g.textAlign = "center"; g.textBaseline = "top"; g.fillText(cut(grid.labels[0], 44), x, y + 24);
      g.save(); g.translate(Math.max(u - 38, 15), v); g.rotate(-Math.PI / 2); g.textBaseline = "bottom"; g.fillText(cut(grid.labels[1], 44), 0, 0); g.restore();
    }
    lifted(x, y) {
      const p = this.spot(x, y), h = this.height(p);
      return [...p, this.mode === "map" ? 0 : (isNaN(h) ? FLOOR : h + 0.012)];
    }
    way(g) {
      const path = this.frame.path;
      this.dots = [];
      if (!path || !path.points.length) return this.star(g);
      const points = path.points, inside = (p) => !isNaN(this.height(this.spot(...p)));
      const until = path.is_path ? this.frame.place : -1;
      if (path.is_path) {
        const pieces = [];
        for (let k = 0; k + 1 < points.length; k++) for (let m = 0; m < 12; m++) {
          const [p, q] = [m / 12, (m + 1) / 12].map((t) => points[k].map((v, i) => v + t * (points[k + 1][i] - v)));
          if (!inside(p) || !inside(q)) continue;
          const from = this.lifted(...p), to = this.lifted(...q);
          pieces.push({ from, to, past: k < until || until < 0, open: this.visible(from) });
        }
        for (const { from, to, past, open } of pieces) this.stroke(g, from, to, "#0a1219", past ? 5 : 3.2, open ? 0.7 : 0.12);
        for (const { from, to, past, open } of pieces) this.stroke(g, from, to, past ? PATH : "#e7cdb8", past ? 2.6 : 1.3, open ? 1 : 0.3);
      }
      points.forEach((p, k) => {
        if (!inside(p)) return;
        const at = this.lifted(...p), [x, y] = this.project(at);
        this.dots.push({ x, y, k });
        disc(g, x, y, 2.6, this.visible(at) ? "#ffe3cf" : "rgba(255, 227, 207, 0.35)", "#6b2a04");
      });
      this.star(g);
    }
    stroke(g, from, to, color, width, alpha) {
      g.globalAlpha = alpha; g.strokeStyle = color; g.lineWidth = width;
      g.beginPath(); g.moveTo(...this.project(from)); g.lineTo(...this.project(to)); g.stroke(); g.globalAlpha = 1;
    }
    star(g) {
      const [a, b] = this.frame.where;
      if (isNaN(this.height(this.spot(a, b)))) return;
      const at = this.lifted(a, b), [x, y] = this.project(at);
      g.globalAlpha = this.visible(at) ? 1 : 0.45;
      g.beginPath();
      for (let k = 0; k < 10; k++) { const r = k % 2 ? 4 : 9.5, t = (k * Math.PI) / 5 - Math.PI / 2; g.lineTo(x + r * Math.cos(t), y + r * Math.sin(t)); }
      g.closePath(); g.fillStyle = PATH; g.strokeStyle = "#fff"; g.lineWidth = 1.4; g.fill(); g.stroke(); g.globalAlpha = 1;
    }
    minima(g) {
      const sure = this.frame.bars.filter((bar) => bar.certain), shown = sure.length > 1 || this.bar ? this.frame.bars : sure;
      for (const bar of [...shown].reverse()) {
        const chosen = bar === this.bar;
        if (!bar.certain && !chosen) continue;
        const at = this.lifted(...bar.point);
        if (isNaN(this.height(at))) continue;
        const [x, y] = this.project(at);
        g.globalAlpha = this.visible(at) || chosen ? 1 : 0.4;
        const color = bar.certain ? SURE : FAINT;
        disc(g, x, y, chosen ? 6 : 4.5, bar.edge ? "#fff" : color, bar.edge ? color : "#10202c");
        if (sure.length > 1 || chosen) { g.fillStyle = INK; g.textAlign = "left"; g.textBaseline = "bottom"; halo(g, String(bar.track), x + 7, y - 4); }
        g.globalAlpha = 1;
      }
    }
    bar_(g) {
      const small = this.width < 520, tall = small ? 84 : 130, x = small ? 14 : this.mode === "map" ? this.width - 74 : 22, y = small ? 34 : 44;
      const fill = g.createLinearGradient(0, y + tall, 0, y);
      this.colors.forEach((c, k) => fill.addColorStop(k / (this.colors.length - 1), c));
      if (small && this.mode === "map") return;
      const isMap = this.mode === "map", to = spread(this.shadeScale), inside = (v) => to(v) >= -0.01 && to(v) <= 1.01;
      const name = this.name === "error" ? "standard error" : this.name + (this.name === "loss" && this.scale.soft !== null ? ", log above the lowest" : "");
      let ticks = (this.name === "loss" ? this.scale.ticks : evenly(this.shadeScale)).filter(inside);
      // One tick tells no scale.
      if (ticks.length < 2) ticks = [this.shadeScale.low, this.shadeScale.high];
      // A plate keeps the words readable where the surface lies behind them.
      const wide = Math.max(g.measureText(name).width, ...ticks.map((v) => 14 + g.measureText(short(v)).width));
      g.fillStyle = "rgba(9, 17, 24, 0.72)"; g.fillRect(isMap ? this.width - 18 - wide : x - 8, y - 28, wide + 16, tall + 38);
      g.fillStyle = fill; g.fillRect(x, y, 9, tall);
      g.fillStyle = INK; g.textAlign = "left"; g.textBaseline = "middle";
      let last = Infinity;
      for (const v of ticks) { const h = y + tall * (1 - to(v)); if (last - h < 14) continue; last = h; halo(g, short(v), x + 14, h); }
      g.textBaseline = "bottom"; g.textAlign = isMap ? "right" : "left";
      halo(g, name, isMap ? this.width - 10 : x, y - 9);
      g.textAlign = "left";
    }
    // What lies under the pointer.
    pick(px, py) {
      if (!this.M || !this.goal) return null;
      if (this.mode === "map") {
        const M = this.M, x = ((2 * px) / this.width - 1 - M[12]) / M[0], y = (1 - (2 * py) / this.tall - M[13]) / M[5];
        return isNaN(this.height([x, y])) ? null : [x, y];
      }
      const { camera } = this, z = unit(sub(camera.target, this.eye)), x = unit(cross(z, [0, 0, 1])), y = cross(x, z);
      const aspect = this.width / this.tall, t = Math.tan(LENS) / this.lens(aspect);
      const u = ((2 * px) / this.width - 1) * t * aspect, v = (1 - (2 * py) / this.tall) * t;
      const ray = unit([0, 1, 2].map((k) => z[k] + u * x[k] + v * y[k]));
      for (let k = 0; k < 400; k++) {
        const s = 0.3 + k * 0.015 * (camera.distance / 3 + 0.5), p = [0, 1, 2].map((i) => this.eye[i] + s * ray[i]);
        if (this.height(p) >= p[2]) return p;
        if (p[2] < FLOOR) return null;
      }
      return null;
    }
    listen() {
      const over = this.over, held = new Map();
      let moved = 0, spread_ = 0;
      over.addEventListener("pointerdown", (e) => { held.set(e.pointerId, [e.offsetX, e.offsetY]); moved = 0; over.setPointerCapture(e.pointerId); });
      over.addEventListener("pointermove", (e) => {
        const last = held.get(e.pointerId);
        if (!last) return this.hover(e.offsetX, e.offsetY);
        const dx = e.offsetX - last[0], dy = e.offsetY - last[1];
        held.set(e.pointerId, [e.offsetX, e.offsetY]); moved += Math.abs(dx) + Math.abs(dy);
        if (held.size === 2) {
          const [p, q] = [...held.values()], now = Math.hypot(p[0] - q[0], p[1] - q[1]);
          if (spread_) this.camera.set({ distance: this.camera.distance * (spread_ / now) });
          spread_ = now;
        } else if (this.mode === "surface" && moved > 3)
          this.camera.set({ azimuth: this.camera.azimuth - dx * 0.008, elevation: this.camera.elevation + dy * 0.006 });
      });
      const end = (e) => {
        if (held.delete(e.pointerId) && moved < 5 && e.type === "pointerup") this.click(e.offsetX, e.offsetY);
        spread_ = 0;
      };
      over.addEventListener("pointerup", end); over.addEventListener("pointercancel", end);
      over.addEventListener("pointerleave", () => { this.tip.hidden = true; if (!held.size && this.hooks.onPick) this.hooks.onPick(null); });
      // The wheel scrolls the page: it zooms only with Ctrl, or once the picture was chosen.
      over.addEventListener("wheel", (e) => {
        if (!e.ctrlKey && document.activeElement !== over) return;
        e.preventDefault(); this.camera.set({ distance: this.camera.distance * Math.exp(e.deltaY * 0.0012) });
      }, { passive: false });
      over.addEventListener("keydown", (e) => {
        const c = this.camera, acts = {
          ArrowLeft: () => c.set({ azimuth: c.azimuth - 0.12 }), ArrowRight: () => c.set({ azimuth: c.azimuth + 0.12 }),
          ArrowUp: () => c.set({ elevation: c.elevation + 0.08 }), ArrowDown: () => c.set({ elevation: c.elevation - 0.08 }),
          "+": () => c.set({ distance: c.distance * 0.88 }), "=": () => c.set({ distance: c.distance * 0.88 }),
          "-": () => c.set({ distance: c.distance * 1.14 }), r: () => c.reset(), R: () => c.reset(), Escape: () => over.blur(),
        };
        if (e.ctrlKey || e.metaKey || e.altKey || !acts[e.key]) return;
        e.preventDefault(); e.stopPropagation(); acts[e.key]();
      });
    }
    dotAt(x, y) { return (this.dots || []).filter((d) => Math.hypot(d.x - x, d.y - y) < 9).pop(); }
    click(x, y) {
      const dot_ = this.dotAt(x, y);
      if (dot_ && this.hooks.onDot) this.hooks.onDot(dot_.k);
    }
    hover(px, py) {
      const dot_ = this.dotAt(px, py), p = this.pick(px, py);
      this.over.style.cursor = dot_ ? "pointer" : this.mode === "surface" ? "grab" : "crosshair";
      const words = dot_ ? this.frame.path.texts[dot_.k] : p && this.words(...this.where(p));
      this.tip.hidden = !words;
      if (!words) return;
      this.tip.textContent = words;
      const left = Math.min(px + 14, this.width - this.tip.offsetWidth - 6);
      this.tip.style.transform = `translate(${Math.max(left, 4)}px, ${Math.max(py - this.tip.offsetHeight - 10, 4)}px)`;
    }
    words(x, y) {
      const f = this.frame.at(x, y, this.name === "error" ? "loss" : this.name);
      const error = this.name === "loss" || this.name === "error" ? f.error : NaN;
      const shown = withError(f.value, error);
      return `${this.name === "error" ? "loss" : this.name} ${shown}${f.computed ? "" : " (interpolated)"}\nat ${short(f.x, 3)}, ${short(f.y, 3)}`;
    }
    png(title) {
      const out = document.createElement("canvas");
      out.width = this.over.width; out.height = this.over.height;
      const g = out.getContext("2d");
      this.render();
      g.fillStyle = "#0d1822"; g.fillRect(0, 0, out.width, out.height);
      if (this.program) g.drawImage(this.canvas, 0, 0);
      g.drawImage(this.over, 0, 0);
      out.toBlob((blob) => save(blob, `${title}.png`));
    }
  }

  // A button that lets a camera go round slowly, where movement is wanted.
  function turning(camera, button) {
    let on = false, last = 0;
    const tick = (now) => {
      if (!on) return;
      camera.set({ azimuth: camera.azimuth + (now - last) * 0.00035 }); last = now;
      requestAnimationFrame(tick);
    };
    button.addEventListener("click", () => {
      on = !on && !still.matches; last = performance.now();
      button.setAttribute("aria-pressed", on);
      if (on) requestAnimationFrame(tick);
    });
  }
  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob); link.download = name; link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  function disc(g, x, y, r, fill, edge) { g.beginPath(); g.arc(x, y, r, 0, 7); g.fillStyle = fill; g.fill(); g.strokeStyle = edge; g.lineWidth = 1; g.stroke(); }
  function halo(g, text, x, y) { g.save(); g.strokeStyle = "rgba(9, 17, 24, 0.85)"; g.lineWidth = 3; g.strokeText(text, x, y); g.restore(); g.fillText(text, x, y); }
  const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  function short(v, digits = 4) {
    if (!isFinite(v)) return isNaN(v) ? "–" : "∞";
    if (v === 0) return "0";
    const a = Math.abs(v), text = a >= 1e6 || a < 1e-4 ? v.toExponential(Math.max(digits - 2, 1)) : String(Number(v.toPrecision(digits)));
    return text.replace("-", "\u2212");
  }
  // A number rounded to its error, as Python's with_error.
  function withError(v, e) {
    if (!isFinite(v) || !(e > 0) || !isFinite(e)) return short(v);
    const decimals = 1 - Math.floor(Math.log10(e)), fits = decimals >= 0 && decimals <= 7 && Math.abs(v) < 1e6;
    return `${fits ? v.toFixed(decimals).replace("-", "\u2212") : short(v)}\u00a0±\u00a0${fits ? e.toFixed(decimals) : short(e, 2)}`;
  }
  function rounded(axis, most = 6) {
    const low = axis[0], high = axis.at(-1), rough = (high - low) / most, decade = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * decade).find((s) => s >= rough * 0.999), out = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) out.push(Math.abs(v) < step / 1e6 ? 0 : v);
    return out;
  }
  const evenly = (s) => rounded([s.low, s.high], 4);

  window.Scene = { Camera, Frame, View, inflate, rounded, save, short, spread, still, turning, withError };
})();
