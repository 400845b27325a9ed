// Formulas: arithmatex leaves \( ... \) and \[ ... \] in elements of this class, and KaTeX renders them here.
document.querySelectorAll(".arithmatex").forEach((element) => {
  const display = element.textContent.startsWith("\\[");
  katex.render(element.textContent.slice(2, -2), element, { displayMode: display, throwOnError: false });
});
