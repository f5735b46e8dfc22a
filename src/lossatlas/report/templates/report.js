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
