// The sidebar shows the current page where a reader sees it.
addEventListener("DOMContentLoaded", () => {
  const bar = document.querySelector(".sidebar-scroll"), here = bar?.querySelector(".current-page > a");
  if (here) bar.scrollTop = here.getBoundingClientRect().top - bar.getBoundingClientRect().top - bar.clientHeight / 2;
});
