// What the scripts beside this file share; see ../checks.py, whose words these are.
export const KEY = "a key";
export const [HELLO, SAID] = ["Hello!", "Good morning"];
export const [WEATHER, SUNNY, REPORT] = ["What is the weather?", "sunny", "It is sunny outside"];
export const [EXTRACT, STORY, TALE] = ["Please extract", "Once", " upon a time"];

/** Run every check of an object of functions with the address of the server; print a line of JSON for each. */
export async function main(checks) {
  for (const [check, run] of Object.entries(checks)) {
    let error = null;
    try {
      await run(process.argv[2]);
    } catch (problem) {
      error = String(problem?.stack ?? problem);
    }
    console.log(JSON.stringify({ check, error }));
  }
}
