// The sidebar shows the current page where a reader sees it.
addEventListener("DOMContentLoaded", () => {
  const bar = document.querySelector(".sidebar-scroll"), here = bar?.querySelector(".current-page > a");
  const top = node => node.getBoundingClientRect().top;
  if (here) bar.scrollTo({ top: top(here) - top(bar) - bar.clientHeight / 2, behavior: "instant" });
});

// A full stop stays on the line of the equation before it.
addEventListener("DOMContentLoaded", () => {
  for (const equation of document.querySelectorAll("article span.math")) {
    const next = equation.nextSibling, mark = next?.nodeType === Node.TEXT_NODE && next.data.match(/^[.,;:!?)\]]+/);
    if (!mark) continue;
    const both = Object.assign(document.createElement("span"), { className: "together" });
    equation.before(both);
    both.append(equation, mark[0]);
    next.data = next.data.slice(mark[0].length);
  }
});
