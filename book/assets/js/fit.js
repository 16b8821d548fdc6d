// On a phone no formula and no table is wider than its column. A formula that is too long for it is drawn smaller; a table
// of too many columns is drawn smaller or, if that is not enough, with a row as a paragraph: each cell below the other, and
// the name of its column before it. Without JavaScript they scroll.
const PHONE = matchMedia("(max-width: 576px)");
const DENSE = 0.8; // how much smaller a table may be drawn
const shown = (e) => e.getClientRects().length > 0;
const inner = (e) => {
  const style = getComputedStyle(e);
  return e.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
};

// The width that a formula may have: that of the block that it stands in, without its number.
const room = (formula) => {
  let block = formula.parentElement;
  while (getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
  const number = formula.hasAttribute("display") && block.querySelector(".eqno");
  return inner(block) - (number ? number.getBoundingClientRect().width + 6 : 0);
};

const shrink = (formula) => {
  const at = `${innerWidth}`;
  if (formula.dataset.fitted === at || !shown(formula) || formula.closest("table")) return;
  formula.dataset.size ??= formula.style.fontSize || "100%";
  formula.style.fontSize = formula.dataset.size;
  formula.dataset.fitted = at;
  if (!PHONE.matches) return;
  const width = formula.querySelector("mjx-math")?.getBoundingClientRect().width ?? 0;
  const share = room(formula) / width;
  if (share < 1) formula.style.fontSize = `${0.99 * share * parseFloat(formula.dataset.size)}%`;
};

const words = (head) => {
  const copy = head.cloneNode(true);
  for (const e of copy.querySelectorAll("mjx-container")) {
    e.replaceWith(e.querySelector("mjx-assistive-mml")?.textContent ?? e.textContent);
  }
  return copy.textContent.trim().replace(/\s+/g, " ");
};

const isWide = (table) => {
  const width = Math.max(table.scrollWidth, table.getBoundingClientRect().width);
  return width > inner(table.parentElement) + 1;
};

const stack = (table) => {
  const top = table.tHead ? table.tHead.rows[table.tHead.rows.length - 1] : table.rows[0];
  const named = [...top.cells].every((cell) => cell.tagName === "TH");
  const heads = named ? [...top.cells].map(words) : [];
  top.classList.toggle("heads", named);
  for (const row of table.querySelectorAll("tbody tr")) {
    [...row.cells].forEach((cell, k) => {
      if (k && row !== top && heads[k] && cell.textContent.trim()) cell.dataset.head = heads[k];
    });
  }
  table.classList.add("stacked");
};

const arrange = (table) => {
  const at = `${innerWidth}`;
  if (table.dataset.fitted === at || !shown(table) || table.closest(".live")) return;
  table.dataset.fitted = at;
  table.classList.remove("dense", "stacked");
  if (!PHONE.matches || !isWide(table)) return;
  if (inner(table.parentElement) > DENSE * table.scrollWidth) table.classList.add("dense");
  if (!isWide(table)) return;
  table.classList.remove("dense");
  stack(table);
};

const fit = () => {
  for (const table of document.querySelectorAll(".bd-article table")) arrange(table);
  for (const formula of document.querySelectorAll(".bd-article mjx-container")) shrink(formula);
};

// Whatever is opened, drawn or turned changes the size of the article.
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const article = document.querySelector(".bd-article");
  if (article) new ResizeObserver(() => requestAnimationFrame(fit)).observe(article);
});
