// Puts the sources of tests/shaders (T5_SHADERS_TO) before the compilers of other systems and prints a table.
//
//     node compile.mjs SHADERS HLSL.EXE [--quick]
//
// DXC and FXC read what naga writes for DirectX, through HLSL.EXE under wine; Tint, Dawn's compiler, reads the WGSL itself;
// spirv-val reads what naga writes for Vulkan. --quick leaves out the sources with run-time checks, all versions of SPIR-V but
// one, and variants whose constants and whose parts were both seen in others of the same kernel. Writes every result to
// SHADERS/results.tsv. Exits with 1 if anything is refused or takes over 2 s.
import { execFile, spawn } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { createRequire } from 'node:module';

const [shaders, hlsl, ...flags] = process.argv.slice(2);
const quick = flags.includes('--quick');
const LIMIT_MS = 2000; // of processor time, for a kernel that users are to wait for
const HOPELESS_MS = 60_000; // FXC may try for hours to unroll a loop
const workers = availableParallelism();
const npm = dirname(createRequire(join(process.cwd(), 'x')).resolve('webgpu/package.json'));
const id = (file) => file.split('.').slice(0, 2).join('.');
const index = readFileSync(join(shaders, 'index.tsv'), 'utf8').split('\n').slice(1).map((line) => line.split('\t'));
const wanted = new Set(index.filter(([, , first]) => !quick || first === 'true').map(([id]) => id));
const files = (folder, end) => readdirSync(join(shaders, folder)).filter((f) => f.endsWith(end) && wanted.has(id(f))).sort();

const expected = {}; // files a compiler is to see
const results = []; // [compiler, file, ok, milliseconds, message, multiply-adds, arrays in memory]
let announced = Date.now();
function report(...result) {
  results.push(result);
  if (Date.now() - announced > 3000) {
    announced = Date.now();
    console.error(`${result[0]}: ${results.filter((r) => r[0] === result[0]).length} of ${expected[result[0]]} files`);
  }
}

// Runs `work` on every task, as many at a time as there are cores.
async function inTurns(tasks, work) {
  const queue = [...tasks];
  const worker = async () => { for (let task; (task = queue.shift());) await work(task); };
  await Promise.all(Array.from({ length: workers }, worker));
}

// One hlsl.exe, begun again when a compilation had to be ended.
class Wine {
  ask(request) {
    this.child ??= this.begin();
    return new Promise((answer) => {
      const end = (text) => { clearTimeout(timer); this.answer = null; answer(text); };
      const timer = setTimeout(() => { this.child.kill('SIGKILL'); this.child = null; end(`timeout\t${HOPELESS_MS}\tgiven up`); }, HOPELESS_MS);
      this.answer = end;
      this.child.stdin.write(`${request}\n`);
    });
  }

  begin() {
    const libraries = ['dxcompiler.dll', 'd3dcompiler_47.dll'].map((name) => join(npm, 'dist/win32-x64', name));
    // Without the override wine's own substitute for FXC would be measured.
    const env = { ...process.env, WINEDEBUG: '-all', WINEDLLOVERRIDES: 'd3dcompiler_47=n;mscoree,mshtml=' };
    const child = spawn('wine', [hlsl, ...libraries], { cwd: join(shaders, 'hlsl'), env, stdio: ['pipe', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (data) => {
      text += data;
      for (let end; (end = text.indexOf('\n')) >= 0; text = text.slice(end + 1)) this.answer?.(text.slice(0, end).replace('\r', ''));
    });
    child.on('exit', (code) => { if (this.child === child) { this.child = null; this.answer?.(`crash\t0\texit code ${code}`); } });
    return child;
  }

  close() { this.child?.stdin.end(); }
}

async function hlslCompilers() {
  const tasks = [];
  const checks = quick ? ['unchecked'] : ['unchecked', 'checked'];
  for (const check of checks) {
    for (const file of files('hlsl', `.${check}.6_0.hlsl`)) tasks.push(['dxc', 'cs_6_0', file, `DXC 6.0 ${check}`]);
  }
  // Zeroing workgroup memory, a part of the checks, takes FXC half a minute.
  for (const file of files('hlsl', '.unchecked.5_1.hlsl')) tasks.push(['fxc', 'cs_5_1', file, 'FXC 5.1 unchecked']);
  for (const task of tasks) expected[task[3]] = (expected[task[3]] ?? 0) + 1;
  const idle = Array.from({ length: workers }, () => new Wine());
  await inTurns(tasks, async ([compiler, target, file, name]) => {
    const wine = idle.pop();
    const [status, ms, message] = (await wine.ask(`${compiler}\t${target}\t${file}`)).split('\t');
    idle.push(wine);
    report(name, file, status === 'ok', Number(ms), status === 'ok' ? '' : `${status} ${message}`, ...(status === 'ok' ? message.split(' ').map(Number) : []));
  });
  idle.forEach((wine) => wine.close());
}

// Tint, on Dawn's null backend, which needs no driver: its errors are those of every browser built on Dawn.
async function tint() {
  const { create, globals } = createRequire(join(npm, 'index.js'))('webgpu');
  Object.assign(globalThis, globals);
  const gpu = create(['backend=null']); // kept alive: Dawn does not survive its collection
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error('Dawn offers no null adapter');
  const device = await adapter.requestDevice({ requiredFeatures: adapter.features.has('subgroups') ? ['subgroups'] : [] });
  const sources = files('wgsl', '.wgsl');
  expected.Tint = sources.length;
  for (const file of sources) {
    const start = performance.now();
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: readFileSync(join(shaders, 'wgsl', file), 'utf8'), label: file });
    const { messages } = await module.getCompilationInfo();
    const refusal = await device.popErrorScope();
    const text = messages.map((m) => `${m.type} ${m.lineNum}:${m.linePos} ${m.message}`).join(' | ');
    const ok = !refusal && !messages.some((m) => m.type === 'error');
    report('Tint', file, ok, performance.now() - start, ok ? '' : text || refusal.message);
  }
  keepAlive.push(gpu, adapter, device);
}
const keepAlive = [];

async function spirvVal() {
  // Each version of SPIR-V is judged by the Vulkan that wgpu writes it for.
  const versions = { '1_0': 'vulkan1.0', '1_3': 'vulkan1.1spv1.4', '1_5': 'vulkan1.2', '1_6': 'vulkan1.3' };
  for (const [version, environment] of Object.entries(versions).filter(([v]) => !quick || v === '1_3')) {
    const name = `spirv-val ${version.replace('_', '.')}`;
    const modules = files('spv', quick ? `.unchecked.${version}.spv` : `.${version}.spv`);
    expected[name] = modules.length;
    await inTurns(modules, (file) => new Promise((done) => {
      const start = performance.now();
      execFile('spirv-val', ['--target-env', environment, join(shaders, 'spv', file)], (error, _, said) => {
        report(name, file, !error, performance.now() - start, error ? `${said || error.message}` : '');
        done();
      });
    }));
  }
}

const start = Date.now();
await hlslCompilers();
await tint();
await spirvVal();

const tsv = results.map((r) => r.map((x) => String(x).replace(/\s+/g, ' ')).join('\t'));
writeFileSync(join(shaders, 'results.tsv'), ['compiler\tfile\tok\tms\tmessage\tfmas\tarrays', ...tsv].join('\n') + '\n');
const slow = (r) => /^(DXC|FXC)/.test(r[0]) && r[3] > LIMIT_MS;
const rows = [['compiler', 'files', 'variants', 'refused', 'over 2 s', 'median ms', 'slowest ms', 'slowest']];
for (const name of new Set(results.map((r) => r[0]))) {
  const own = results.filter((r) => r[0] === name).sort((a, b) => a[3] - b[3]);
  const slowest = own.at(-1);
  rows.push([name, own.length, new Set(own.map((r) => id(r[1]))).size, own.filter((r) => !r[2]).length, own.filter(slow).length,
    own[own.length >> 1][3].toFixed(0), slowest[3].toFixed(0), id(slowest[1])]);
}
const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => String(row[i]).length)));
for (const row of rows) console.log(row.map((cell, i) => (i % 7 ? String(cell).padStart(widths[i]) : String(cell).padEnd(widths[i]))).join('  '));
const bad = results.filter((r) => !r[2] || slow(r));
for (const [name, file, ok, ms, message] of bad.slice(0, 40)) console.log(`${ok ? 'SLOW' : 'REFUSED'} ${name} ${file} ${ms.toFixed(0)} ms: ${message.slice(0, 600)}`);
console.log(bad.length ? `${bad.length} of ${results.length} failed` : `all ${results.length} accepted in ${((Date.now() - start) / 1000).toFixed(0)} s`);
process.exit(bad.length ? 1 : 0);
