"use strict";
// The head of a report: one survey on the stage, or figures behind tabs.
(function () {
  const root = document.documentElement, $ = (id) => document.getElementById(id);
  for (const tabs of document.querySelectorAll("[data-tabs]")) tabs.addEventListener("click", (event) => {
    const button = event.target.closest("[data-tab]");
    if (!button) return;
    for (const other of tabs.children) {
      other.setAttribute("aria-selected", other === button);
      $(other.dataset.tab).closest(".pane").hidden = other !== button;
    }
  });
  if (!$("scene")) { root.setAttribute("data-ready", ""); return; }
  const all = JSON.parse(new TextDecoder().decode(Scene.inflate($("head").textContent)));
  const about = all.frames[0], path = about.path === null ? null : all.paths[about.path];
  const frame = new Scene.Frame({ ...about, path: null, grid: null }, all.grids[about.grid], path, () => $("frame-0").textContent);
  frame.load();
  const camera = new Scene.Camera(), view = new Scene.View($("scene"), camera);
  const tabs = [["surface", "loss", "3-D"], ["map", "loss", "from above"], ...frame.fields.slice(2).map((f) => ["map", f.name, f.name]), ["map", "error", "error"]];
  let now = tabs[0];
  function show(tab) {
    now = tab;
    const [mode, name] = tab;
    view.show(frame, { scale: frame.scale, mode, name, colors: all.colors[name === "loss" || name === "error" ? name : "metric"] });
    [...$("tabs").children].forEach((b, k) => b.setAttribute("aria-selected", tabs[k] === tab));
    root.dataset.view = tab[2];
  }
  $("tabs").replaceChildren(...tabs.map((tab, k) => {
    const button = document.createElement("button");
    button.type = "button"; button.setAttribute("role", "tab"); button.textContent = tab[2]; button.title = `${tab[2]} (${k + 1})`;
    button.addEventListener("click", () => show(tab));
    return button;
  }));
  function outline(bar) {
    view.outline(bar);
    document.querySelectorAll("#bars .row").forEach((row) => row.classList.toggle("on", bar !== null && Number(row.dataset.track) === bar.track));
    root.dataset.basin = bar ? bar.track : "";
  }
  Page.bars($("bars"), frame, { pick: outline, fly: (bar) => view.fly(bar) });
  Scene.turning(camera, $("turn"));
  $("reset").addEventListener("click", () => camera.reset());
  $("png").addEventListener("click", () => view.png(Page.named(`${document.title} ${now[2]}`)));
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.matches("input, select, textarea")) return;
    const tab = tabs[Number(e.key) - 1];
    if (tab) show(tab);
    if (e.key.toLowerCase() === "t") $("turn").click();
    if (e.key.toLowerCase() === "r") camera.reset();
  });
  $("hatched").hidden = !frame.hatched;
  show(tabs[0]);
  window.Report = { camera, view, frame };
  root.setAttribute("data-ready", "");
})();
