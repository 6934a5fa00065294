"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Before/after sliders. Those of scenes borrow images that are on the page already, so that it does not carry them twice.
  for (const box of all(".compare")) {
    const borrowed = all("img[data-from]", box).map((image) => [image, document.getElementById(image.dataset.from)]);
    if (borrowed.some(([, source]) => !source)) continue;
    for (const [image, source] of borrowed) {
      image.width = source.width;
      image.height = source.height;
      image.src = source.src;
    }
    const range = box.querySelector("input");
    const move = () => box.style.setProperty("--at", `${range.value}%`);
    range.addEventListener("input", move);
    move();
    box.closest("figure").hidden = false;
    box.classList.add("live");
  }

  // Clips stop on demand; the still is there for those who asked for less motion.
  for (const button of all(".pause")) {
    const figure = button.closest("figure");
    const image = figure.querySelector("img");
    const source = figure.querySelector("source");
    if (matchMedia(source.media).matches) continue;
    const moving = image.src;
    button.hidden = false;
    button.addEventListener("click", () => {
      const playing = image.src === moving;
      image.src = playing ? source.srcset : moving;
      button.textContent = playing ? "play" : "pause";
    });
  }

  // Images enlarge on a click or Enter; arrow keys go through those of the same scene.
  const viewer = document.getElementById("viewer");
  const large = viewer.querySelector("img");
  const caption = viewer.querySelector("figcaption");
  let row = [];
  let place = 0;
  const show = (index) => {
    place = (index + row.length) % row.length;
    const shown = row[place];
    const scene = shown.closest(".scene");
    large.src = shown.currentSrc || shown.src;
    large.alt = shown.alt;
    const name = scene ? scene.querySelector("h3").textContent : "";
    caption.textContent = name && !shown.alt.startsWith(name) ? `${name}: ${shown.alt}` : shown.alt;
  };
  const enlarge = (image) => {
    row = all("img.zoom", image.closest(".scene, .hero, section") || document);
    show(row.indexOf(image));
    viewer.showModal();
  };
  for (const image of all("img.zoom")) {
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.addEventListener("click", () => enlarge(image));
    image.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      enlarge(image);
    });
  }
  viewer.addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(place + step);
  });
})();
