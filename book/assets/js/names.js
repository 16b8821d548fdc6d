// Names for what stored widgets draw without one, for readers who listen: a slider is called by the label beside it, a
// frame by the slider that turns to it and its place. A table or code that is too wide can be reached, and scrolled, by key.
const name = () => {
  for (const handle of document.querySelectorAll(".jupyter-widgets .noUi-handle:not([aria-label])")) {
    const label = handle.closest(".jupyter-widgets")?.querySelector(".widget-label");
    handle.setAttribute("aria-label", label?.textContent.trim() || "slider");
  }
  for (const box of document.querySelectorAll(".widget-vbox")) {
    const label = box.querySelector(".widget-label")?.textContent.trim() ?? "frame";
    const frames = [...box.querySelectorAll("img.widget-image")];
    frames.forEach((frame, k) => frame.alt || (frame.alt = `${label}, picture ${k + 1} of ${frames.length}`));
  }
  for (const wide of document.querySelectorAll(".bd-article :is(table, .text_html, pre, .math)")) {
    if (wide.scrollWidth > wide.clientWidth && getComputedStyle(wide).overflowX !== "visible") wide.tabIndex = 0;
  }
};
new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
addEventListener("load", name);
addEventListener("resize", name);
