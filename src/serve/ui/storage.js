// What stays in this browser after a reload: answers with their photographs, and the photograph that was chosen last. Where the browser keeps nothing
// (private windows, a full disk), it is forgotten with the tab.

let database = null;

function connect() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("candor", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("answers", { keyPath: "id" });
      request.result.createObjectStore("photographs");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function transact(mode, work) {
  try {
    const transaction = (await (database ??= connect())).transaction(["answers", "photographs"], mode);
    const request = work(transaction.objectStore("answers"), transaction.objectStore("photographs"));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } catch {
    return undefined;
  }
}

export const storedAnswers = async () => (await transact("readonly", (answers) => answers.getAll())) ?? [];
export const storeAnswer = (answer) => transact("readwrite", (answers) => answers.put(answer));
export const dropAnswers = (ids) => transact("readwrite", (answers) => ids.map((id) => answers.delete(id)).at(-1));
export const storedPhoto = () => transact("readonly", (_, photographs) => photographs.get("chosen"));
export const storePhoto = (photo) => transact("readwrite", (_, photographs) => photographs.put(photo, "chosen"));
export const dropPhoto = () => transact("readwrite", (_, photographs) => photographs.delete("chosen"));
export const clearStorage = () => transact("readwrite", (answers, photographs) => (answers.clear(), photographs.clear()));
