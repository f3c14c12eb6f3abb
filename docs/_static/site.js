// A click on a figure shows it in its own size.
document.addEventListener("click", (event) => {
  const image = event.target;
  if (image.matches("article img") && !image.closest("a")) window.location = image.src;
});
