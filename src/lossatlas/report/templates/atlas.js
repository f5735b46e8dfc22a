"use strict";
// The atlas: one state, which every view shows.
(function () {
  const root = document.documentElement, $ = (id) => document.getElementById(id);
  const text = new TextDecoder().decode(Scene.inflate($("head").textContent));
  const all = JSON.parse(text), camera = new Scene.Camera();
  const frames = all.frames.map((f, k) => new Scene.Frame(
    { ...f, path: null, grid: null }, all.grids[f.grid], f.path === null ? null : all.paths[f.path], () => $(`frame-${k}`).textContent));
  const runs = all.runs, NAMES = { surface: "3-D", map: "from above" };
  const state = { run: 0, beside: -1, step: 0, view: "surface", name: "loss", common: false, playing: false, basin: null, missing: null };
  const views = [], panes = [];
  const small = new Scene.View($("overview"), new Scene.Camera(), { onDot: jump });
  const run = (k = 0) => runs[k ? state.beside : state.run];
  const frame = (k = 0) => frames[run(k).frames[k ? matching() : state.step]];
  // The frame of the other run whose step is nearest.
  function matching() {
    const at = run().steps[state.step], gaps = run(1).steps.map((s) => Math.abs(s - at));
    return gaps.indexOf(Math.min(...gaps));
  }
  const tabs = () => [["surface", "loss"], ["map", "loss"], ...frame().fields.slice(2).map((f) => ["map", f.name]), ["map", "error"]];
  const label = ([view, name]) => (name === "loss" ? NAMES[view] : name);
  const colors = (name) => all.colors[name === "loss" || name === "error" ? name : "metric"];

  function pane() {
    const figure = document.createElement("figure"), place = document.createElement("div"), caption = document.createElement("figcaption");
    place.className = "scene"; figure.append(place, caption); $("views").append(figure);
    views.push(new Scene.View(place, camera, { onDot: jump })); panes.push({ figure, caption });
  }
  function jump(k) {
    const found = run().frames.findIndex((f) => frames[f].place === k);
    if (found >= 0) go(found);
  }
  function scaleOf(k) {
    if (state.beside >= 0) {
      const [a, b] = state.common ? [run(0).scale, run(1).scale] : [frame(0).scale, frame(1).scale];
      return { low: Math.min(a.low, b.low), high: Math.max(a.high, b.high), soft: a.soft === null || b.soft === null ? a.soft ?? b.soft : Math.min(a.soft, b.soft), ticks: [...new Set([...a.ticks, ...b.ticks])].sort((p, q) => p - q) };
    }
    return state.common ? run(k).scale : frame(k).scale;
  }
  function show(tween = false) {
    const shown = state.beside >= 0 ? [0, 1] : [0];
    const used = shown.map(frame);
    used.forEach((f) => f.load());
    const start = performance.now();
    while (views.length < shown.length) pane();
    panes.forEach((p, k) => { p.figure.hidden = !shown.includes(k); });
    shown.forEach((k) => {
      const name = used[k].field(state.name) ? state.name : "loss";
      views[k].outline(null); small.outline(null);
      views[k].show(used[k], { scale: scaleOf(k), mode: state.view, name, colors: colors(name), tween });
      panes[k].caption.textContent = runs.length > 1 ? `${run(k).name}, step ${Scene.short(used[k].step, 9)}: loss ${used[k].loss}` : "";
    });
    small.show(used[0], { scale: scaleOf(0), mode: "map", name: "loss", colors: colors("loss") });
    words(used[0]);
    root.dataset.script = Math.round(performance.now() - start);
    root.dataset.step = used[0].step;
    root.setAttribute("data-ready", "");
    later();
  }
  function words(f) {
    $("headline").textContent = f.headline;
    $("figures").replaceChildren(...[["step", Scene.short(f.step, 9)], ["loss", f.loss], ...Object.entries(f.metrics)].map(([name, value]) => {
      const box = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = name; dd.textContent = value; box.append(dt, dd); return box;
    }));
    $("step").textContent = `step ${Scene.short(f.step, 9)}`;
    $("slider").max = run().frames.length - 1; $("slider").value = state.step;
    $("slider").setAttribute("aria-valuetext", `step ${f.step}, loss ${f.loss}`);
    Page.bars($("bars"), f, { pick: outline, fly: (bar) => views[0].fly(bar) });
    for (const [id, on] of [["scale", state.common], ["play", state.playing]]) $(id).setAttribute("aria-pressed", on);
    $("play").textContent = state.playing ? "❚❚ pause" : "▶ play";
    document.querySelectorAll("#tabs button").forEach((b) => b.setAttribute("aria-selected", b.dataset.view === state.view && b.dataset.name === state.name));
    const notes = [];
    if (state.missing !== null) notes.push(`There is no step ${state.missing}; step ${Scene.short(f.step, 9)} is shown.`);
    if (!run().one_grid) notes.push("The maps of this run do not share one grid: places and colors of basins cannot be compared from step to step.");
    $("grid-note").hidden = !notes.length;
    $("grid-note").textContent = notes.join(" ");
    document.querySelectorAll("#charts-more svg, #charts svg").forEach((svg) => svg.cursor && svg.cursor(run().steps[state.step]));
    address();
  }
  function outline(bar) {
    state.basin = bar && bar.track;
    views[0].outline(bar); small.outline(bar);
    if (state.beside >= 0 && views[1]) views[1].outline(null);
    document.querySelectorAll("#bars .row").forEach((row) => row.classList.toggle("on", bar !== null && Number(row.dataset.track) === state.basin));
    root.dataset.basin = bar ? bar.track : "";
  }
  // Neighbors are decoded while nothing else happens.
  function later() {
    const next = frames[run().frames[Math.min(state.step + 1, run().frames.length - 1)]];
    (window.requestIdleCallback || setTimeout)(() => next.load());
  }
  function go(step, tween = true) {
    const last = run().frames.length - 1;
    state.step = Math.min(Math.max(step, 0), last);
    state.missing = null;
    show(tween);
  }
  function play(on = !state.playing) {
    state.playing = on && run().frames.length > 1;
    clearTimeout(play.timer);
    const tick = () => {
      if (!state.playing) return;
      go(state.step >= run().frames.length - 1 ? 0 : state.step + 1);
      play.timer = setTimeout(tick, Math.max(260, Math.min(700, 12000 / run().frames.length)));
    };
    if (state.playing) tick(); else words(frame());
  }
  function view([kind, name]) { state.view = kind; state.name = name; outline(null); show(); }

  // The address holds what is seen: #step=200&view=map.
  function address() {
    const words = new URLSearchParams({ step: String(frame().step) });
    if (state.run) words.set("run", run().name);
    if (state.beside >= 0) words.set("beside", run(1).name);
    if (state.view !== "surface") words.set("view", state.name === "loss" ? "map" : state.name);
    if (state.common) words.set("scale", "common");
    history.replaceState(null, "", `#${words}`);
  }
  function read() {
    const words = new URLSearchParams(location.hash.slice(1)), named = (key) => runs.findIndex((r) => r.name === words.get(key));
    if (!words.has("step") && !words.has("view") && !words.has("run")) { state.step = run().frames.length - 1; state.missing = null; return; }
    if (named("run") >= 0) state.run = named("run");
    state.beside = named("beside");
    const step = Number(words.get("step")), gaps = run().steps.map((s) => Math.abs(s - step));
    state.step = words.has("step") ? gaps.indexOf(Math.min(...gaps)) : run().frames.length - 1;
    state.missing = words.has("step") && !(gaps[state.step] === 0) ? words.get("step") : null;
    const kind = words.get("view");
    if (kind) { state.view = "map"; state.name = kind === "map" ? "loss" : frame().field(kind) ? kind : "loss"; }
    state.common = words.get("scale") === "common";
  }

  function menus() {
    $("tabs").replaceChildren(...tabs().map((tab, k) => {
      const button = document.createElement("button");
      button.type = "button"; button.setAttribute("role", "tab"); [button.dataset.view, button.dataset.name] = tab;
      button.textContent = label(tab); button.title = `${label(tab)} (${k + 1})`;
      button.addEventListener("click", () => view(tab));
      return button;
    }));
    if (!$("run")) return;
    const option = (name, value) => Object.assign(document.createElement("option"), { textContent: name, value });
    $("run").replaceChildren(...runs.map((r, k) => option(r.name, k))); $("run").value = state.run;
    $("beside").replaceChildren(option("nothing", -1), ...runs.map((r, k) => option(r.name, k))); $("beside").value = state.beside;
    $("run").onchange = (e) => { const at = run().steps[state.step]; state.run = Number(e.target.value); const gaps = run().steps.map((s) => Math.abs(s - at)); state.step = gaps.indexOf(Math.min(...gaps)); charts(); show(); };
    $("beside").onchange = (e) => { state.beside = Number(e.target.value); charts(); show(); };
  }

  // Numbers over the steps: a small chart each, with its errors and a cursor.
  // A number is [value, error], or [value, low, high] where its interval is not the error on either side.
  const ends = ([v, e, high]) => (high !== undefined ? (e === null || high === null ? null : [e, high]) : e ? [v - e, v + e] : null);
  const W = 320, H = 110;
  function chart(name) {
    const series = [run(), ...(state.beside >= 0 ? [run(1)] : [])].map((r) => ({ r, n: r.numbers.find((n) => n.name === name) })).filter((s) => s.n);
    const about = series[0].n, points = series.flatMap(({ r, n }) => n.values.map((v, k) => v && isFinite(v[0]) && v[0] !== null && [r.steps[k], ...v]).filter(Boolean));
    const cell = document.createElement("div"); cell.className = "cell";
    cell.innerHTML = '<header><h3></h3><span class="now"></span></header>';
    cell.querySelector("h3").textContent = name; cell.querySelector("h3").title = [about.unit, about.meaning].filter(Boolean).join("; ");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`); svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${name} over the steps. ${about.meaning}`);
    const values = points.map((p) => p[1]), low = Math.min(...values), high = Math.max(...values);
    // Room for the longer label of the axis.
    const PAD = { l: Math.max(44, 12 + 7 * Math.max(...[low, high].map((v) => Scene.short(v, 3).length))), r: 8, t: 8, b: 20 };
    const log = low > 0 && high / low > 30, to = (v) => (log ? Math.log10(Math.max(v, low / 10)) : v);
    const errors = points.map((p) => ends(p.slice(1))).filter(Boolean), bottom = Math.min(to(low), ...errors.map((p) => to(Math.max(p[0], log ? low / 3 : -Infinity))));
    const top = Math.max(to(high), ...errors.map((p) => to(p[1]))), span = top - bottom || Math.abs(top) || 1;
    const x0 = Math.min(...points.map((p) => p[0])), x1 = Math.max(...points.map((p) => p[0]));
    const X = (s) => PAD.l + ((s - x0) / (x1 - x0 || 1)) * (W - PAD.l - PAD.r), Y = (v) => H - PAD.b - ((to(v) - bottom) / span) * (H - PAD.t - PAD.b);
    const add = (tag, look, words) => { const node = document.createElementNS(svg.namespaceURI, tag); for (const k in look) node.setAttribute(k, look[k]); if (words !== undefined) node.textContent = words; svg.append(node); return node; };
    for (const v of [low, high]) add("text", { x: PAD.l - 5, y: Y(v) + 4, "text-anchor": "end" }, Scene.short(v, 3));
    add("line", { x1: PAD.l, x2: W - PAD.r, y1: H - PAD.b + 3, y2: H - PAD.b + 3, stroke: "var(--line)" });
    add("text", { x: PAD.l, y: H - 4 }, Scene.short(x0, 9)); add("text", { x: W - PAD.r, y: H - 4, "text-anchor": "end" }, `${Scene.short(x1, 9)}${log ? " · log" : ""}`);
    const mark = add("line", { y1: PAD.t - 4, y2: H - PAD.b + 3, stroke: "var(--muted)", "stroke-dasharray": "3 3" });
    series.forEach(({ r, n }, k) => {
      const color = k ? "var(--accent)" : "var(--sure)", shown = n.values.map((v, i) => v && v[0] !== null && [r.steps[i], ...v]).filter(Boolean);
      for (const [s, ...v] of shown) if (ends(v)) add("line", { x1: X(s), x2: X(s), y1: Y(ends(v)[0]), y2: Y(ends(v)[1]), stroke: color, "stroke-opacity": 0.45, "stroke-width": 3 });
      add("polyline", { points: shown.map(([s, v]) => `${X(s)},${Y(v)}`).join(" "), fill: "none", stroke: color, "stroke-width": 1.6, "vector-effect": "non-scaling-stroke" });
      if (shown.length < 60) for (const [s, v] of shown) add("circle", { cx: X(s), cy: Y(v), r: 2.4, fill: color });
    });
    svg.cursor = (step) => {
      mark.setAttribute("x1", X(step)); mark.setAttribute("x2", X(step));
      cell.querySelector(".now").textContent = series[0].n.texts[state.step] || "\u2013";
    };
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect(), s = x0 + (((event.clientX - box.left) / box.width) * W - PAD.l) / (W - PAD.l - PAD.r) * (x1 - x0);
      const gaps = run().steps.map((v) => Math.abs(v - s)); go(gaps.indexOf(Math.min(...gaps)));
    });
    svg.cursor(run().steps[state.step]);
    cell.append(svg);
    return cell;
  }
  function charts() {
    const many = run().frames.length > 1, usable = run().numbers.filter((n) => n.values.filter((v) => v && v[0] !== null).length > (many ? 1 : 0));
    const moves = usable.filter((n) => { const v = n.values.filter((e) => e && e[0] !== null).map((e) => e[0]); return Math.max(...v) > Math.min(...v); });
    const first = moves.slice(0, 9).map((n) => n.name), rest = usable.map((n) => n.name).filter((n) => !first.includes(n));
    $("charts").replaceChildren(...first.map(chart));
    const more = $("charts-more");
    more.hidden = !rest.length; more.querySelector("small").textContent = `${rest.length}`;
    const fill = () => more.querySelector(".grid").replaceChildren(...(more.open ? rest.map(chart) : []));
    more.ontoggle = fill; fill();
  }

  $("slider").addEventListener("input", (e) => go(Number(e.target.value), false));
  $("play").addEventListener("click", () => play());
  $("back").addEventListener("click", () => go(state.step - 1)); $("next").addEventListener("click", () => go(state.step + 1));
  $("scale").addEventListener("click", () => { state.common = !state.common; show(); });
  Scene.turning(camera, $("turn"));
  $("png").addEventListener("click", () => views[0].png(`${Page.named(document.title)}-step-${frame().step}`));
  window.addEventListener("hashchange", () => { read(); menus(); show(); });
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches("input, select, textarea")) return;
    const acts = { ArrowLeft: () => go(state.step - 1), ArrowRight: () => go(state.step + 1), " ": () => play(), s: () => $("scale").click(), t: () => $("turn").click(),
      r: () => camera.reset(), Home: () => go(0), End: () => go(Infinity) };
    const tab = tabs()[Number(e.key) - 1];
    if (e.key === " " && e.target.matches("button, summary, a")) return;
    if (tab) { view(tab); return; }
    const act = acts[e.key] || acts[e.key.toLowerCase()];
    if (act) { e.preventDefault(); act(); }
  });
  read(); pane(); menus();
  show();
  charts();
  window.Atlas = { state, views, camera, frames, go, play };
})();
