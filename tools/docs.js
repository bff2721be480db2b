// The sidebar shows the current page where a reader sees it.
addEventListener("DOMContentLoaded", () => {
  const bar = document.querySelector(".sidebar-scroll"), here = bar?.querySelector(".current-page > a");
  const top = node => node.getBoundingClientRect().top;
  if (here) bar.scrollTo({ top: top(here) - top(bar) - bar.clientHeight / 2, behavior: "instant" });
});
