// Compiles contracts/*.sol and prints {"<contract>": "0x<creation code>"}.
import { readFileSync, readdirSync } from "node:fs";
import solc from "solc";

const directory = new URL("contracts/", import.meta.url);
const names = readdirSync(directory).filter((name) => name.endsWith(".sol"));
const sources = Object.fromEntries(
  names.map((name) => [name, { content: readFileSync(new URL(name, directory), "utf8") }]),
);
const settings = { evmVersion: "cancun", outputSelection: { "*": { "*": ["evm.bytecode.object"] } } };
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));

const problems = (output.errors ?? []).map((error) => error.formattedMessage);
if (problems.length > 0) {
  console.error(problems.join("\n"));
  process.exit(1);
}
const contracts = Object.values(output.contracts).flatMap((file) => Object.entries(file));
console.log(JSON.stringify(Object.fromEntries(contracts.map(([name, { evm }]) => [name, `0x${evm.bytecode.object}`]))));
