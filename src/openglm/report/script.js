// Copies the text beside a button. Without this script there are no buttons and nothing else is missing.
for (const button of document.querySelectorAll(".copy")) {
  const text = button.parentElement.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      // Pages from a folder may not be let at the clipboard: select the text for the keyboard's copy.
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
