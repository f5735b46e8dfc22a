"use strict";
(function () {
  const config = {
    displaylogo: false,
    responsive: true,
    // Nothing may leave the page.
    plotlyServerURL: "",
    modeBarButtonsToRemove: [
      "sendChartToCloud", "sendDataToCloud", "editInChartStudio",
      "select2d", "lasso2d", "autoScale2d", "hoverClosest3d", "resetCameraLastSave3d",
    ],
    toImageButtonOptions: { format: "png", scale: 3 },
  };
  function draw(data) {
    const place = document.getElementById(data.dataset.for);
    const figure = JSON.parse(data.textContent);
    const scene = figure.layout.scene;
    if (scene && place.clientWidth < 760) {
      // A narrow page needs more distance to hold the same width.
      const distance = Math.min(760 / place.clientWidth, 1.9);
      for (const side of ["x", "y", "z"]) scene.camera.eye[side] *= distance;
    }
    return Plotly.newPlot(place, figure.data, figure.layout, config);
  }
  function resize() {
    document.querySelectorAll(".plot").forEach((place) => Plotly.Plots.resize(place));
  }
  const figures = Array.from(document.querySelectorAll("script[data-for]"));
  Promise.all(figures.map(draw)).then(() => document.documentElement.setAttribute("data-drawn", figures.length));
  window.addEventListener("beforeprint", resize);
  window.addEventListener("afterprint", resize);
})();
