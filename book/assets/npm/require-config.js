// RequireJS looks for modules, and they for their icons, beside this file.
var require = { baseUrl: new URL(".", document.currentScript.src).href };

// Widgets set formulas in their labels by MathJax 2's queue. The pages have MathJax 3.
window.addEventListener("load", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    const typeset = (job) => Array.isArray(job) && job[0] === "Typeset" && window.MathJax.typesetPromise([job[2]]);
    window.MathJax.Hub = { Queue: (...jobs) => jobs.forEach(typeset) };
  }
});
