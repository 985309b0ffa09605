// The panels of the live part: a figure each, drawn anew when there is news.

import { CHARTS } from "./charts.js";
import { armsTable, drawTiles, workersTable } from "./tables.js";

const TABLES = [
  ["workers", "Workers", workersTable],
  // Sound assignment and always-valid intervals are for experiments; what clients saw by arm stands in their place.
  ["arms", "Arms", armsTable],
];

export class Panels {
  constructor(live) {
    this.live = live;
    this.group = document.getElementById("group");
    this.group.addEventListener("change", () => this.draw());
    this.figures = new Map();
    for (const [key, title] of [...CHARTS, ...TABLES]) this.figures.set(key, figure(key, title));
    document.getElementById("charts").append(...this.figures.values());
    this.draw();
  }

  draw() {
    this._offerGroups();
    drawTiles(document.getElementById("tiles"), this.live);
    for (const [key, , draw] of CHARTS) {
      const { plot, ...told } = draw(this.live, this.group.value);
      show(this.figures.get(key), plot?.svg, told);
    }
    for (const [key, , draw] of TABLES) {
      const { made, ...told } = draw(this.live);
      show(this.figures.get(key), made, told);
    }
  }

  _offerGroups() {
    const names = this.live.groupNames();
    const shown = [...this.group.options].slice(1).map((option) => option.value);
    if (names.join("\n") === shown.join("\n")) return;
    const before = this.group.value;
    this.group.replaceChildren(this.group.options[0], ...names.map((name) => new Option(name, name)));
    this.group.value = names.includes(before) ? before : "";
  }
}

function figure(key, title) {
  const made = document.createElement("figure");
  made.className = "card";
  made.id = `chart-${key}`;
  const head = document.createElement("h3");
  head.id = `title-${key}`;
  head.textContent = title;
  made.setAttribute("aria-labelledby", head.id);
  const keys = document.createElement("p");
  keys.className = "keys";
  const drawing = document.createElement("div");
  drawing.className = "drawing";
  made.append(head, keys, drawing, document.createElement("figcaption"));
  return made;
}

function show(figure, drawn, { caption, points, keys = {} }) {
  const drawing = figure.querySelector(".drawing");
  drawing.classList.toggle("empty", !drawn);
  // Wide tables scroll inside of their panel, by keyboard too.
  if (drawn instanceof HTMLTableElement) drawing.tabIndex = 0;
  drawing.replaceChildren(...(drawn ? [drawn] : []));
  figure.dataset.points = points;
  figure.querySelector("figcaption").textContent = caption;
  figure.querySelector(".keys").replaceChildren(...Object.entries(keys).map(([kind, text]) => keyItem(kind, text)));
}

function keyItem(kind, text) {
  const item = document.createElement("span");
  item.className = `key ${kind}`;
  item.textContent = text;
  return item;
}
