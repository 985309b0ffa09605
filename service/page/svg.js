// Charts as SVG: axes, lines, dots and bars, coloured by the style sheet alone.

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 200;
const MARGIN = { left: 44, right: 20, top: 10, bottom: 34 };

export function node(name, attributes = {}, ...children) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Return about `count` round values from 0 to at least `most`.
export function ticks(most, count = 4) {
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, index) => index * step);
}

export const short = (value) => {
  if (Math.abs(value) >= 10000) return `${(value / 1000).toFixed(0)}k`;
  return Number(value.toPrecision(3)).toString();
};

// A drawing with its two axes; x and y map values to places.
export class Plot {
  constructor({ xs, ys, xName, yName, xLabel = short, yLabel = short }) {
    const [left, right] = [MARGIN.left, WIDTH - MARGIN.right];
    const [top, bottom] = [MARGIN.top, HEIGHT - MARGIN.bottom];
    const [x0, x1] = [xs[0], xs.at(-1)];
    const [y0, y1] = [ys[0], ys.at(-1)];
    this.x = (value) => left + ((value - x0) / (x1 - x0)) * (right - left);
    this.y = (value) => bottom - ((value - y0) / (y1 - y0)) * (bottom - top);
    this.bottom = bottom;
    this.svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot", "aria-hidden": "true" });
    for (const value of ys) {
      this.add("line", { class: "grid", x1: left, x2: right, y1: this.y(value), y2: this.y(value) });
      this.text(left - 6, this.y(value) + 3.5, yLabel(value), "end");
    }
    for (const value of xs) this.text(this.x(value), bottom + 14, xLabel(value), "middle");
    this.text((left + right) / 2, HEIGHT - 3, xName, "middle", "name");
    this.add("text", { class: "name", "text-anchor": "middle", transform: `translate(9 ${(top + bottom) / 2}) rotate(-90)` })
      .append(yName);
    this.add("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
  }

  add(name, attributes, ...children) {
    const made = node(name, attributes, ...children);
    this.svg.append(made);
    return made;
  }

  text(x, y, text, anchor = "start", kind = "tick") {
    return this.add("text", { class: kind, x, y, "text-anchor": anchor }, text);
  }

  // Draw a line through points; null values break it.
  line(points, kind) {
    let path = "";
    let isOpen = false;
    for (const [x, y] of points) {
      if (y === null) isOpen = false;
      else {
        path += `${isOpen ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`;
        isOpen = true;
      }
    }
    this.add("path", { class: `line ${kind}`, d: path || "M0 0" });
  }

  area(points, kind) {
    const known = points.filter(([, y]) => y !== null);
    if (known.length < 2) return;
    const path = known.map(([x, y], i) => `${i ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`).join("");
    this.add("path", {
      class: `area ${kind}`,
      d: `${path}L${this.x(known.at(-1)[0]).toFixed(1)} ${this.bottom}L${this.x(known[0][0]).toFixed(1)} ${this.bottom}Z`,
    });
  }

  dot(x, y, kind, { r = 3, opacity = 1, title = "" } = {}) {
    const dot = this.add("circle", { class: `dot ${kind}`, cx: this.x(x).toFixed(1), cy: this.y(y).toFixed(1), r, opacity });
    if (title) dot.append(node("title", {}, title));
  }

  bar(x, width, y, kind, title = "") {
    const top = this.y(y);
    const bar = this.add("rect", {
      class: `bar ${kind}`,
      x: (this.x(x) - width / 2).toFixed(1),
      y: top.toFixed(1),
      width,
      height: Math.max(0, this.bottom - top).toFixed(1),
    });
    if (title) bar.append(node("title", {}, title));
  }
}
