// A ball-and-stick viewer on a plain canvas: the renderer of render.py, line for line, with a mouse.
// No WebGL (pages are read on machines without a GPU), no library, no network.
"use strict";
const LIGHT = [-0.42, 0.52, 0.74], AMBIENT = 0.42, SHINE = 0.35, GLOSS = 24, RIM = 0.3, FAINT = 0.55, FOG = 0.35;
const STICK = 0.11, GAP = 0.16, EDGE = 0.03, MARGIN = 0.06;
const EDGE_GREY = [0.45, 0.45, 0.45];
const AXES = [[0.84, 0.15, 0.16], [0.17, 0.55, 0.17], [0.12, 0.37, 0.78]];
const HALF = (() => { const h = [LIGHT[0], LIGHT[1], LIGHT[2] + 1], n = Math.hypot(...h); return h.map(v => v / n); })();

class Viewer {
  // elements: {number: {symbol, colour: [r, g, b] in 0..1, radius in angstrom}}
  constructor(canvas, elements) {
    this.canvas = canvas; this.elements = elements; this.scene = null; this.zoom = 1; this.pending = 0;
    const points = new Map();
    canvas.addEventListener("pointerdown", e => { canvas.setPointerCapture(e.pointerId); points.set(e.pointerId, [e.clientX, e.clientY]); });
    const lift = e => { points.delete(e.pointerId); this.draw(true); };
    canvas.addEventListener("pointerup", lift); canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("pointermove", e => {
      if (!points.has(e.pointerId) || !this.scene) return;
      const [x, y] = points.get(e.pointerId);
      if (points.size === 2) {
        const gap = () => { const [p, q] = [...points.values()]; return Math.hypot(p[0] - q[0], p[1] - q[1]); };
        const before = gap(); points.set(e.pointerId, [e.clientX, e.clientY]); this.magnify(gap() / before);
      } else {
        points.set(e.pointerId, [e.clientX, e.clientY]); this.turn((e.clientX - x) * 0.01, (e.clientY - y) * 0.01);
      }
    });
    canvas.addEventListener("wheel", e => { e.preventDefault(); this.magnify(Math.exp(-e.deltaY * 0.0012)); }, { passive: false });
    canvas.addEventListener("dblclick", () => this.show(this.scene));
    new ResizeObserver(() => this.draw(true)).observe(canvas);
  }

  show(scene) { this.scene = scene; this.zoom = 1; this.view = scene ? scene.orientation.map(row => row.slice()) : null; this.draw(true); }

  magnify(factor) { this.zoom = Math.min(8, Math.max(0.3, this.zoom * factor)); this.soon(); }

  turn(right, down) {
    const [cr, sr, cd, sd] = [Math.cos(right), Math.sin(right), Math.cos(down), Math.sin(down)];
    const [x, y, z] = this.view;
    const x1 = x.map((v, i) => cr * v + sr * z[i]), z1 = x.map((v, i) => -sr * v + cr * z[i]);
    this.view = [x1, y.map((v, i) => cd * v - sd * z1[i]), y.map((v, i) => sd * v + cd * z1[i])];
    this.soon();
  }

  // Coarse pixels while something moves, fine ones when it rests.
  soon() {
    if (!this.pending) this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw(false); });
    clearTimeout(this.rest); this.rest = setTimeout(() => this.draw(true), 160);
  }

  draw(fine) {
    const side = Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1)) || 400;
    if (this.canvas.width !== side) { this.canvas.width = side; this.canvas.height = side; }
    const context = this.canvas.getContext("2d");
    context.fillStyle = "#fff"; context.fillRect(0, 0, side, side);
    if (!this.scene) return;
    const over = fine && side < 900 ? 2 : 1, n = side * over;
    this.side = n; this.scale = n * (0.5 - MARGIN) / this.scene.radius * this.zoom;
    this.image = new ImageData(n, n); this.image.data.fill(255); this.depth = new Float32Array(n * n).fill(-Infinity);
    this.paintScene();
    if (over === 1) context.putImageData(this.image, 0, 0);
    else {
      const buffer = document.createElement("canvas"); buffer.width = buffer.height = n;
      buffer.getContext("2d").putImageData(this.image, 0, 0);
      context.imageSmoothingEnabled = true; context.imageSmoothingQuality = "high"; context.drawImage(buffer, 0, 0, side, side);
    }
    this.annotate(context, side, over);
  }

  project(p) {
    const d = p.map((v, i) => v - this.scene.centre[i]), t = this.view.map(row => row[0] * d[0] + row[1] * d[1] + row[2] * d[2]);
    return [t[0] * this.scale + this.side / 2, this.side / 2 - t[1] * this.scale, t[2] * this.scale];
  }

  paintScene() {
    const s = this.scene, places = s.positions.map(p => this.project(p));
    const paint = s.numbers.map((z, i) => this.elements[z].colour.map(c => s.image[i] ? c + FAINT * (1 - c) : c));
    places.forEach((p, i) => this.ball(p, Math.max(this.elements[s.numbers[i]].radius * this.scale, 1.5), paint[i]));
    for (const [i, j, order] of s.sticks) {
      const p = places[i], q = places[j], long = Math.max(Math.hypot(q[0] - p[0], q[1] - p[1]), 1e-9);
      const radius = (order === 1 ? STICK : 0.6 * STICK) * this.scale;
      for (let k = 0; k < order; k++) {
        const aside = (k - (order - 1) / 2) * GAP * this.scale / long, ox = -(q[1] - p[1]) * aside, oy = (q[0] - p[0]) * aside;
        const a = [p[0] + ox, p[1] + oy, p[2]], b = [q[0] + ox, q[1] + oy, q[2]], m = a.map((v, c) => (v + b[c]) / 2);
        this.stick(a, m, radius, paint[i]); this.stick(m, b, radius, paint[j]);
      }
    }
    if (!s.cell) return;
    for (let axis = 0; axis < 3; axis++) for (const i of [0, 1]) for (const j of [0, 1]) {
      const [u, v] = [0, 1, 2].filter(k => k !== axis);
      const start = s.cell[u].map((x, c) => i * x + j * s.cell[v][c]), end = start.map((x, c) => x + s.cell[axis][c]);
      const far = i || j, radius = Math.max(EDGE * (far ? 1 : 1.6) * this.scale, 0.9);
      this.stick(this.project(start), this.project(end), radius, far ? EDGE_GREY : AXES[axis]);
    }
  }

  pixel(at, z, nx, ny, nz, colour) {
    if (z <= this.depth[at]) return;
    this.depth[at] = z;
    const lit = AMBIENT + (1 - AMBIENT) * Math.max(nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2], 0);
    const gloss = SHINE * Math.pow(Math.max(nx * HALF[0] + ny * HALF[1] + nz * HALF[2], 0), GLOSS);
    const fog = FOG * Math.min(1, Math.max(0, 0.5 - z / (2 * this.scene.radius * this.scale))), rim = nz < RIM ? 0.6 : 1;
    for (let c = 0; c < 3; c++) {
      const shade = (colour[c] * lit + gloss) * rim;
      this.image.data[4 * at + c] = 255 * (shade + fog * (1 - shade));
    }
  }

  ball([cx, cy, cz], r, colour) {
    const n = this.side, top = Math.max(0, Math.floor(cy - r)), bottom = Math.min(n, Math.ceil(cy + r) + 1);
    const left = Math.max(0, Math.floor(cx - r)), right = Math.min(n, Math.ceil(cx + r) + 1);
    for (let row = top; row < bottom; row++) for (let col = left; col < right; col++) {
      const x = (col + 0.5 - cx) / r, y = (row + 0.5 - cy) / r, h2 = 1 - x * x - y * y;
      if (h2 >= 0) { const h = Math.sqrt(h2); this.pixel(row * n + col, cz + r * h, x, -y, h, colour); }
    }
  }

  stick(p, q, r, colour) {
    r = Math.max(r, 0.8);
    const d = [q[0] - p[0], q[1] - p[1], q[2] - p[2]], length = Math.hypot(...d);
    if (length < 1e-6) return;
    const az = d[2] / length, s = Math.hypot(d[0], d[1]) / length;
    if (s < 1e-3) return;
    const ex = d[0] / length / s, ey = d[1] / length / s, n = this.side;
    const top = Math.max(0, Math.floor(Math.min(p[1], q[1]) - r)), bottom = Math.min(n, Math.ceil(Math.max(p[1], q[1]) + r) + 1);
    const left = Math.max(0, Math.floor(Math.min(p[0], q[0]) - r)), right = Math.min(n, Math.ceil(Math.max(p[0], q[0]) + r) + 1);
    for (let row = top; row < bottom; row++) for (let col = left; col < right; col++) {
      const x = col + 0.5 - p[0], y = row + 0.5 - p[1], aside = (ex * y - ey * x) / r;
      if (aside > 1 || aside < -1) continue;
      const h = Math.sqrt(1 - aside * aside), along = (ex * x + ey * y + r * h * az) / s;
      if (along < 0 || along > length) continue;
      this.pixel(row * n + col, p[2] + along * az + r * h * s, -ey * aside - az * ex * h, -(ex * aside - az * ey * h), s * h, colour);
    }
  }

  annotate(context, side, over) {
    const unit = side / 420, font = size => `${Math.round(size * unit)}px system-ui, sans-serif`;
    if (this.scene.cell) {
      const origin = this.project([0, 0, 0]);
      context.textAlign = "center"; context.textBaseline = "middle"; context.font = "italic bold " + font(15);
      this.scene.cell.forEach((vector, k) => {
        const end = this.project(vector), long = Math.max(Math.hypot(end[0] - origin[0], end[1] - origin[1]), 1e-9);
        const keep = v => Math.min(side - 10 * unit, Math.max(10 * unit, v));
        const x = keep(end[0] / over + (end[0] - origin[0]) / long * 14 * unit), y = keep(end[1] / over + (end[1] - origin[1]) / long * 14 * unit);
        context.lineWidth = 4 * unit; context.strokeStyle = "#fff"; context.strokeText("abc"[k], x, y);
        context.fillStyle = `rgb(${AXES[k].map(v => Math.round(255 * v)).join()})`; context.fillText("abc"[k], x, y);
      });
    }
    const perAngstrom = this.scale / over, length = roundLength(side * 0.28 / perAngstrom), bar = length * perAngstrom;
    const x = 14 * unit, y = side - 14 * unit;
    context.strokeStyle = context.fillStyle = "#222"; context.lineWidth = 2 * unit;
    context.beginPath(); context.moveTo(x, y); context.lineTo(x + bar, y); context.stroke();
    context.font = font(13); context.textAlign = "left"; context.textBaseline = "bottom"; context.fillText(`${length} Å`, x, y - 4 * unit);
  }
}

// The largest 1, 2 or 5 times a power of ten that is not above `most`.
function roundLength(most) {
  const power = Math.pow(10, Math.floor(Math.log10(most) + 1e-9));
  const best = [5, 2, 1].find(m => m * power <= most * (1 + 1e-9)) || 1;
  return Number((best * power).toPrecision(1));
}
