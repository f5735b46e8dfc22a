"use strict";
// Figures, tables and themes that every page has. `window.Page` is what other scripts use.
(function () {
  const root = document.documentElement;
  const config = {
    displaylogo: false, responsive: true,
    // Nothing may leave the page.
    plotlyServerURL: "",
    scrollZoom: false,
    displayModeBar: "hover",
    modeBarButtonsToRemove: ["toImage", "sendChartToCloud", "sendDataToCloud", "editInChartStudio", "select2d", "lasso2d",
      "autoScale2d", "hoverClosest3d", "resetCameraLastSave3d"],
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme === "dark" || (root.dataset.theme !== "light" && dark.matches);
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Colors of lines and texts that would not be seen on a dark page.
  const NIGHT = {
    "#1b2a33": "#e8eef2", "#5d6b74": "#a9b7c1", "#9aa6ad": "#8494a0", "#e4e9ec": "#2b3843", "#d3dade": "#33424f",
    "#00648c": "#5fb4e0", "#eceff1": "#26323c", "#bcd3d6": "#3f6f7c", "#b3477d": "#e383b3", "#8a6d00": "#d3b24a",
  };
  function recolored(value, swap, inside) {
    if (typeof value === "string") return swap[value.toLowerCase()] || value;
    if (Array.isArray(value)) return value.length > 64 ? value : value.map((v) => recolored(v, swap));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, k === "colorscale" || k === "z" ? v : recolored(v, swap, k)]));
    return value;
  }
  function themed(figure) {
    const swap = isDark() ? NIGHT : {};
    const layout = recolored(figure.layout, swap), plate = css("--plate");
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0, 0, 0, 0)";
    layout.modebar = { bgcolor: "rgba(0, 0, 0, 0)", color: css("--muted"), activecolor: css("--ink") };
    layout.font = { ...layout.font, color: css("--ink") };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: plate, bordercolor: css("--muted"), font: { ...(layout.hoverlabel || {}).font, color: css("--ink") } };
    return { data: recolored(figure.data, swap), layout };
  }

  function fitted(entry) {
    const figure = themed(entry.figure), width = entry.place.clientWidth;
    if (width && width < 480) narrow(figure.layout);
    return figure;
  }

  function plotly() {
    if (window.Plotly) return;
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(Scene.inflate(document.getElementById("library").textContent));
    document.head.append(script);
  }

  const figures = new Map();
  for (const data of document.querySelectorAll("script[data-for]"))
    figures.set(data.dataset.for, { place: document.getElementById(data.dataset.for), data, drawn: null });
  let waiting = Promise.resolve(), open = 0;
  const count = () => {
    root.dataset.drawn = [...figures.values()].filter((f) => f.done).length;
    root.toggleAttribute("data-busy", open > 0);
  };
  function draw(entry) {
    if (entry.drawn) return entry.drawn;
    open += 1; count();
    // One after another, so that the page answers in between.
    entry.drawn = waiting = waiting.then(() => put(entry)).then(() => new Promise((go) => setTimeout(go)));
    return entry.drawn;
  }
  async function put(entry) {
    try {
      plotly();
      entry.figure = JSON.parse(new TextDecoder().decode(Scene.inflate(entry.data.textContent)));
      const { data, layout } = fitted(entry), scene = layout.scene, width = entry.place.clientWidth;
      if (scene) {
        // The wheel scrolls the page until the picture is chosen.
        layout.scene.dragmode = "turntable";
        if (width && width < 760) for (const side of ["x", "y", "z"]) scene.camera.eye[side] *= Math.min(760 / width, 1.9);
      }
      const drawn = Plotly.newPlot(entry.place, data, layout, config);
      entry.done = true;
      await drawn;
    } catch (error) { console.error(error); }
    open -= 1; count();
  }
  function shortened(line) {
    const words = plain(line);
    return words.length > 20 ? `${words.slice(0, 19).replace(/&/g, "&amp;").replace(/</g, "&lt;")}…` : line;
  }
  function narrow(layout) {
    layout.margin = { ...layout.margin, l: 46, r: Math.min((layout.margin || {}).r || 12, 64) };
    for (const [name, axis] of Object.entries(layout)) {
      if (/^[xy]axis/.test(name) && axis.title) axis.nticks = 5;
      // Names of rows leave half of the width to what is drawn.
      if (/^yaxis/.test(name) && axis.ticktext) axis.ticktext = axis.ticktext.map((t) => String(t).split("<br>").map(shortened).join("<br>"));
    }
  }
  const eye = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) { eye.unobserve(one.target); draw(figures.get(one.target.id)); }
  }, { rootMargin: "500px" });
  const all = () => Promise.all([...figures.values()].map(draw));
  function relay() {
    for (const entry of figures.values()) if (entry.done) {
      const { data, layout } = fitted(entry);
      Plotly.react(entry.place, data, layout, config);
    }
    root.dispatchEvent(new CustomEvent("theme"));
  }
  dark.addEventListener("change", relay);

  // Plotly takes every wheel over a surface; only a chosen one, or Ctrl, may.
  document.addEventListener("wheel", (event) => {
    const plot = event.target.closest && event.target.closest(".plot");
    if (plot && !event.ctrlKey && !plot.classList.contains("chosen")) event.stopPropagation();
  }, { capture: true, passive: true });
  document.addEventListener("pointerdown", (event) => {
    const plot = event.target.closest && event.target.closest(".plot");
    document.querySelectorAll(".plot.chosen").forEach((p) => p !== plot && p.classList.remove("chosen"));
    if (plot) plot.classList.add("chosen");
  }, true);

  const named = (text) => (text || "figure").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "figure";
  const plain = (text) => new DOMParser().parseFromString(String(text), "text/html").body.textContent;
  const list = (v) => (v && v.bdata !== undefined ? [...decoded(v)] : Array.isArray(v) || ArrayBuffer.isView(v) ? [...v] : []);
  // Arrays as plotly writes them: base64 of numbers, with their kind and shape.
  function decoded(v) {
    const kinds = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
    const flat = Array.from(new kinds[v.dtype](Uint8Array.from(atob(v.bdata), (c) => c.charCodeAt(0)).buffer));
    if (!v.shape) return flat;
    const [rows, columns] = String(v.shape).split(",").map(Number);
    return columns ? Array.from({ length: rows }, (_, r) => flat.slice(r * columns, (r + 1) * columns)) : flat;
  }
  // Rows (name, x, y, z) of all that a figure draws.
  function rows(figure) {
    const out = [];
    figure.data.forEach((trace, k) => {
      const name = plain(trace.name || `trace ${k + 1}`), x = list(trace.x), y = list(trace.y), z = list(trace.z);
      if (Array.isArray(z[0]) || ArrayBuffer.isView(z[0])) {
        const grid = Array.isArray(x[0]) || ArrayBuffer.isView(x[0]);
        z.forEach((row, i) => [...row].forEach((v, j) => out.push([name, grid ? x[i][j] : x[j], grid ? y[i][j] : y[i], v])));
      } else x.forEach((v, i) => out.push(z.length ? [name, v, y[i], z[i]] : [name, v, y[i]]));
    });
    return out;
  }
  const cell = (v) => (v === null || v === undefined || (typeof v === "number" && !isFinite(v)) ? "" : /[",\n]/.test(String(v)) ? `"${String(v).replace(/"/g, '""')}"` : String(v));
  const escapes = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_", "%": "\\%", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "±": "$\\pm$", "−": "$-$", "×": "$\\times$", "…": "\\dots{}" };
  const tex = (text) => String(text).replace(/[\\{}$&#_%^~±−×…]/g, (c) => escapes[c]);
  // Numbers with exponents share one power of ten, as in Python's latex_cell.
  const numeral = /[-+\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+\u2212]?\d+)?/g;
  function texCell(cell) {
    if (!/\de[-+\u2212]?\d/.test(cell) || /[^\s±[\],%]/.test(cell.replace(numeral, ""))) return tex(cell);
    const value = (t) => Number(t.replace(/,/g, "").replace(/\u2212/g, "-"));
    const order = (t) => Number(value(t).toExponential().split("e")[1]);
    const power = Math.max(...cell.match(numeral).filter(value).map(order));
    const scaled = (t) => {
      const [digits, e] = t.replace(/\u2212/g, "-").split("e"), decimals = (digits.split(".")[1] || "").length;
      return `${t[0] === "+" ? "+" : ""}${(value(t) / 10 ** power).toFixed(Math.max(decimals + power - Number(e || 0), 0))} \\times 10^{${power}}`;
    };
    return `$${cell.replace(numeral, scaled).replace("±", "\\pm").replace("%", "\\%")}$`;
  }
  function pgf(figure, title) {
    const groups = new Map();
    for (const [name, ...place] of rows(figure)) groups.set(name, [...(groups.get(name) || []), place]);
    const axis = (which) => tex(plain(((figure.layout[which] || {}).title || {}).text || ""));
    const plots = [...groups].map(([name, points]) => {
      const deep = points[0] && points[0].length > 2, shown = points.filter((p) => p.every((v) => typeof v === "number" && isFinite(v)));
      return `  ${deep ? "\\addplot3[only marks, scatter]" : "\\addplot"} coordinates {${shown.map((p) => `(${p.map((v) => Number(v.toPrecision(7))).join(",")})`).join(" ")}};\n  \\addlegendentry{${tex(name)}}`;
    });
    return `% ${title}\n\\begin{tikzpicture}\n\\begin{axis}[xlabel={${axis("xaxis")}}, ylabel={${axis("yaxis")}}]\n${plots.join("\n")}\n\\end{axis}\n\\end{tikzpicture}\n`;
  }
  const text = (content, name) => Scene.save(new Blob([content], { type: "text/plain" }), name);
  async function saved(button) {
    const id = button.parentElement.dataset.of, entry = figures.get(id), kind = button.dataset.save;
    const title = document.getElementById(`${id}-title`).textContent, name = named(title);
    await draw(entry);
    if (kind === "csv") text(["trace,x,y,z", ...rows(entry.figure).map((row) => row.map(cell).join(","))].join("\n") + "\n", `${name}.csv`);
    else if (kind === "tex") text(pgf(entry.figure, title), `${name}.tex`);
    else {
      const { data, layout } = themed(entry.figure);
      layout.paper_bgcolor = css("--plate");
      const box = entry.place.getBoundingClientRect();
      await Plotly.downloadImage({ data, layout: { ...layout, width: box.width, height: box.height } }, { format: kind, scale: kind === "png" ? 2 : 1, filename: name });
    }
  }

  const cells = (row) => [...row.children].map((c) => c.textContent.trim());
  function tableText(table, kind) {
    const all = [...table.rows].filter((row) => !row.hidden).map(cells);
    if (kind === "csv") return all.map((row) => row.map(cell).join(",")).join("\n") + "\n";
    const [head, ...body] = all.map((row) => `${row.map(texCell).join(" & ")} \\\\`);
    return `\\begin{tabular}{${"l".repeat(table.rows[0].cells.length)}}\n\\hline\n${head}\n\\hline\n${body.join("\n")}\n\\hline\n\\end{tabular}\n`;
  }
  function sort(button) {
    const head = button.closest("tr"), place = [...head.children].indexOf(button.parentElement), body = head.closest("table").tBodies[0];
    const up = button.dataset.sort !== "up", number = (t) => { const m = t.replace(/,/g, "").replace("\u2212", "-").match(/-?[\d.]+(e[-+]?\d+)?/); return m ? Number(m[0]) : NaN; };
    button.dataset.sort = up ? "up" : "down";
    const keyed = [...body.rows].map((row) => ({ row, t: row.children[place].textContent.trim() }));
    keyed.sort((a, b) => { const p = number(a.t), q = number(b.t); return (up ? 1 : -1) * (place && !isNaN(p) && !isNaN(q) ? p - q : a.t.localeCompare(b.t)); });
    body.append(...keyed.map((k) => k.row));
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.do === "theme") { root.dataset.theme = isDark() ? "light" : "dark"; relay(); }
    if (button.dataset.do === "print") window.print();
    if (button.dataset.save) saved(button);
    if (button.dataset.copy) {
      event.preventDefault();
      const block = button.closest(".table");
      text(tableText(block.querySelector("table"), button.dataset.copy), `${named(block.dataset.name)}.${button.dataset.copy}`);
    }
    if (button.dataset.sort !== undefined) sort(button);
  });
  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-find]")) return;
    const words = event.target.value.toLowerCase();
    for (const row of event.target.closest(".table").querySelector("table").tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(words);
  });
  // Links into closed parts open them.
  const reveal = () => {
    const place = location.hash.length > 1 && !location.hash.includes("=") && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = place; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  };
  window.addEventListener("hashchange", reveal); reveal();
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((d) => { d.open = true; });
    figures.forEach((f) => f.done && Plotly.Plots.resize(f.place));
  });
  window.addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));

  // The bars of one frame: rows to point at; `pick` and `fly` are called with a bar.
  function bars(place, frame, { pick, fly }) {
    const box = place.querySelector(".rows"), ends = place.querySelectorAll(".axis span");
    const to = Scene.spread(frame.scale), most = frame.bars.map((b) => b.death).filter((d) => d !== null);
    const top = Math.max(...most, ...frame.bars.map((b) => b.level), frame.scale.low), width = to(top) * 1.06 || 1;
    const spot = (v) => Math.max(Math.min((100 * to(v)) / width, 99), 0);
    box.replaceChildren(...frame.bars.map((bar) => {
      const row = document.createElement("button"), left = spot(bar.birth), right = bar.death === null ? 95 : spot(bar.death);
      row.type = "button"; row.className = `row ${bar.certain ? "sure" : ""} ${bar.death === null ? "open" : ""} ${bar.edge ? "edge" : ""}`; row.dataset.track = bar.track;
      row.innerHTML = '<span></span><span class="track"><i></i></span><span class="lasts"></span>';
      row.children[0].textContent = bar.track; row.children[2].textContent = bar.death === null ? "never ends" : bar.lasts;
      const depth = bar.death === null ? "joins no deeper basin" : `depth ${bar.lasts}`;
      row.title = `basin ${bar.track}: loss ${bar.loss} at the minimum, ${depth}; ${bar.verdict}${bar.edge ? "; the minimum lies on the edge of the map" : ""}`;
      row.setAttribute("aria-label", row.title);
      Object.assign(row.querySelector("i").style, { left: `${left}%`, width: `${Math.max(right - left, 0)}%` });
      row.addEventListener("pointerenter", () => pick(bar)); row.addEventListener("focus", () => pick(bar));
      row.addEventListener("pointerleave", () => pick(null)); row.addEventListener("blur", () => pick(null));
      row.addEventListener("click", () => fly(bar));
      return row;
    }));
    ends[0].textContent = Scene.short(frame.scale.low, 3); ends[1].textContent = Scene.short(top, 3);
    place.querySelector(".counts").textContent = frame.counts;
  }
  // What is on the screen is drawn before the page has loaded: pictures of it are taken then.
  for (const entry of figures.values()) {
    const { top, bottom, width } = entry.place.getBoundingClientRect();
    if (width && top < innerHeight && bottom > 0) { open += 1; entry.drawn = put(entry); } else eye.observe(entry.place);
  }
  count();
  window.Page = { all, bars, css, isDark, named };
})();
