// Rows of a table that match every filter stay; a filter with data-column asks for that cell, one without for any text.
for (const form of document.querySelectorAll("form.filters")) {
  const rows = [...document.querySelectorAll("#" + form.dataset.table + " tbody tr")];
  const told = form.querySelector("output");
  const filter = () => {
    let shown = 0;
    for (const row of rows) {
      const kept = [...form.elements].every((field) => {
        if (!field.name || !field.value) return true;
        const column = field.dataset.column;
        if (column === undefined) return row.textContent.toLowerCase().includes(field.value.toLowerCase());
        return row.cells[Number(column)].textContent.trim() === field.value;
      });
      row.hidden = !kept;
      shown += kept;
    }
    told.textContent = shown + " of " + rows.length + " shown";
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  form.hidden = false;
  filter();
}
