// The part of dx12.sh that runs `t5 verify` again and again and writes the table.
//
//   node scripts/portability/dx12.mjs T5.EXE OUT TEXT...      each TEXT as `t5 verify --only` takes it; OUT gets table.md and results.json

import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';

const [exe, out, ...only] = process.argv.slice(2);
const MEMORY_GIB = Number(process.env.T5_DX12_GIB ?? 4);
const SECONDS = Number(process.env.T5_DX12_SECONDS ?? 120);
// A process takes seconds to begin; one that is ended takes the results of the others in it along, which are then run alone.
const TOGETHER = 16;

const flags = (texts) => texts.flatMap((text) => ['--only', text]);

/** What this command of the program prints; ends the script where it fails. */
function t5(...args) {
  const { status, stdout, stderr } = spawnSync('wine', [exe, ...args], { encoding: 'utf8' });
  if (status === 0) return stdout;
  console.error(`dx12.sh: t5 ${args.join(' ')}: ${stderr}`);
  process.exit(2);
}

// Wine offers the same device through Vulkan too.
const index = JSON.parse(t5('devices', '--json')).findIndex((adapter) => adapter.backend === 'dx12' && !adapter.unusable);
if (index < 0) {
  console.error('dx12.sh: wine offers no DirectX 12 adapter that the engine can use: see `wine t5.exe devices`');
  process.exit(2);
}
const checks = t5('verify', '--list', ...flags(only)).split(/\r?\n/).filter(Boolean);

/** Runs these checks in one process; gives its report, or why there is none. */
function run(names) {
  return new Promise((resolve) => {
    const child = spawn('wine', [exe, 'verify', '--adapter', `${index}`, '--json', ...flags(names)], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr, stopped, peak] = ['', '', null, 0];
    child.stdout.on('data', (text) => (stdout += text));
    child.stderr.on('data', (text) => (stderr += text));
    const stop = (why) => {
      stopped ??= why;
      child.kill('SIGKILL');
    };
    const clock = setTimeout(() => stop(`over ${SECONDS} s`), SECONDS * 1000);
    // Not `ulimit`: wine reserves far more address space than it uses.
    const watch = setInterval(() => {
      const gib = residentGib(child.pid);
      peak = Math.max(peak, gib);
      if (gib > MEMORY_GIB) stop(`over ${MEMORY_GIB} GiB`);
    }, 100);
    child.on('close', () => {
      clearTimeout(clock);
      clearInterval(watch);
      try {
        resolve({ report: JSON.parse(stdout), peak });
      } catch {
        const error = stderr.split('\n').find((line) => line.startsWith('error: ')) ?? 'the process died';
        resolve({ why: stopped ?? error.replace('error: ', ''), peak });
      }
    });
  });
}

function residentGib(pid) {
  try {
    return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 2 ** 20;
  } catch {
    return 0; // it has just ended
  }
}

let adapter;
const results = new Map();
const groups = [];
for (let at = 0; at < checks.length; at += TOGETHER) groups.push(checks.slice(at, at + TOGETHER));
while (groups.length > 0) {
  const names = groups.shift();
  const { report, why, peak } = await run(names);
  if (report) {
    adapter = report.adapter;
    for (const check of names) {
      const rows = report.rows.filter((row) => row.what.startsWith(`${check} `) || row.what.startsWith(`${check}: `));
      const refused = report.refused.find((one) => one.check === check)?.error;
      results.set(check, { rows, why: refused, refused: refused !== undefined });
    }
  } else if (names.length > 1) {
    groups.unshift(...names.map((name) => [name]));
  } else {
    results.set(names[0], { rows: [], why });
  }
  process.stderr.write(`${results.size}/${checks.length} ${names.at(-1)}: ${why ?? 'done'}, ${peak.toFixed(1)} GiB\n`);
}
writeFileSync(`${out}/results.json`, JSON.stringify({ adapter, results: Object.fromEntries(results) }, null, 1));

const passed = (row) => row.error !== null && row.error <= row.tolerance;
const outcome = ({ rows, refused }) => (refused ? 'refused' : rows.length === 0 ? 'not run' : rows.every(passed) ? 'passed' : 'failed');
const table = new Map();
for (const [check, result] of results) {
  const op = check.split(' ')[0];
  const line = table.get(op) ?? { passed: 0, failed: 0, refused: 0, 'not run': 0, kernels: 0, backward: 0, rules: 0, worst: 0 };
  line[outcome(result)] += 1;
  for (const row of result.rows) {
    line[row.what.includes(' d/d ') ? 'rules' : row.what.includes(' gradient ') ? 'backward' : 'kernels'] += 1;
    if (!row.what.includes(' d/d ')) line.worst = Math.max(line.worst, (row.error ?? Infinity) / row.tolerance);
  }
  table.set(op, line);
}
let text = '| checks of | passed | failed | refused | not run | comparisons: kernels, backward kernels | worst error, of what is allowed |\n';
text += '|---|---|---|---|---|---|---|\n';
for (const [op, l] of table) {
  text += `| ${op} | ${l.passed} | ${l.failed} | ${l.refused} | ${l['not run']} | ${l.kernels}, ${l.backward} | ${(100 * l.worst).toPrecision(2)} % |\n`;
}
const total = (key) => [...results.values()].filter((result) => outcome(result) === key).length;
text += `\n${results.size} checks on ${adapter?.name} (${adapter?.backend}, ${adapter?.driver} ${adapter?.driver_info}; ${adapter?.compiler}): `;
text += ['passed', 'failed', 'refused', 'not run'].map((key) => `${total(key)} ${key}`).join(', ') + '.\n\n';
for (const [check, result] of results) {
  if (outcome(result) === 'failed') {
    for (const row of result.rows.filter((row) => !passed(row))) text += `- ${row.what}: ${row.error} > ${row.tolerance}\n`;
  } else if (result.why) {
    text += `- ${check}: ${outcome(result)}: ${result.why.split('\n').slice(0, 3).join(' ')}\n`;
  }
}
writeFileSync(`${out}/table.md`, text);
process.stdout.write(text);
process.exit(total('failed') + total('refused') > 0 ? 1 : 0);
