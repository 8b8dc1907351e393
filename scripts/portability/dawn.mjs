// Runs the cases of `t5 verify` in Dawn, the WebGPU of Chromium, and compares them with the f64 oracle.
//
//     node dawn.mjs SHADERS [PROFILE [FIRST [LAST]]]
//
// SHADERS is what tests/shaders writes (T5_SHADERS_TO). The device has WebGPU's base limits. PROFILE is `webgpu`; or `subgroups`: the kernels for the
// adapter's size of subgroups, if that is fixed. Without one, both run, each in a process of its own: node with Dawn has crashed
// when a second profile followed in the same process. FIRST and LAST, counted from 1, choose some of its cases, so that several
// processes can share them or one can go on. VK_ICD_FILENAMES chooses the driver. Exits with 1 if a case fails.
import { spawnSync } from 'node:child_process';
import { existsSync, openSync, readFileSync, readSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const [shaders, wanted, first = 1, last = Infinity] = process.argv.slice(2);
if (!wanted) {
  const run = (name) => {
    const { status, signal } = spawnSync(process.execPath, [process.argv[1], shaders, name], { stdio: 'inherit' });
    if (status !== 0) console.log(`Dawn, ${name}: ended with ${signal ?? `status ${status}`}`);
    return status === 0;
  };
  process.exit(['webgpu', 'subgroups'].map(run).every(Boolean) ? 0 : 1);
}
const npm = dirname(createRequire(join(process.cwd(), 'x')).resolve('webgpu/package.json'));
const { create, globals } = createRequire(join(npm, 'index.js'))('webgpu');
Object.assign(globalThis, globals);
const alive = [create(['backend=vulkan'])]; // Dawn does not survive the collection of what it works with
const adapter = await alive[0].requestAdapter();
if (!adapter) throw new Error('Dawn finds no Vulkan adapter that it accepts');
const { description, subgroupMinSize, subgroupMaxSize } = adapter.info;
const fixed = wanted === 'subgroups' && adapter.features.has('subgroups') && subgroupMinSize === subgroupMaxSize ? `cpu${subgroupMinSize}` : null;
const device = await adapter.requestDevice({ requiredFeatures: fixed ? ['subgroups'] : [] });
device.addEventListener?.('uncapturederror', (e) => { throw new Error(e.error.message); });
device.lost.then((info) => { console.log(`the device was lost: ${info.message}`); process.exit(1); });
alive.push(adapter, device);
console.log(`${description}; subgroups ${subgroupMinSize}-${subgroupMaxSize}`);

const pipelines = new Map();
async function pipeline(kernel) {
  if (!pipelines.has(kernel)) {
    const module = device.createShaderModule({ code: readFileSync(join(shaders, 'wgsl', `${kernel}.wgsl`), 'utf8'), label: kernel });
    const made = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main' }, label: kernel });
    pipelines.set(kernel, { module, made, layout: made.getBindGroupLayout(0) });
  }
  return pipelines.get(kernel);
}

const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;

// Memory with these contents; what has none is filled with NaN, since kernels may rely on nothing.
function buffer(contents, bytes, usage) {
  const made = device.createBuffer({ size: Math.max(4, bytes), usage: usage | COPY_SRC | COPY_DST });
  device.queue.writeBuffer(made, 0, contents ?? new Uint8Array(Math.max(4, bytes)).fill(0xff));
  return made;
}

async function run(test, data) {
  const memory = test.buffers.map(({ bytes, at }) => buffer(at === undefined ? null : data(at, bytes), bytes, STORAGE | UNIFORM));
  const temporary = [];
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  for (const { kernel, params, bindings, grid } of test.steps) {
    const { made, layout } = await pipeline(kernel);
    const entries = bindings.map(([binding, index]) => {
      if (index !== null) return { binding, resource: { buffer: memory[index] } };
      temporary.push(buffer(Uint32Array.from(params), 4 * params.length, UNIFORM));
      return { binding, resource: { buffer: temporary.at(-1) } };
    });
    const group = device.createBindGroup({ layout, entries });
    temporary.push(group);
    pass.setPipeline(made);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...grid);
  }
  pass.end();
  const staging = test.outputs.map(({ buffer: index, len }) => {
    const made = device.createBuffer({ size: Math.max(4, 4 * len), usage: MAP_READ | COPY_DST });
    encoder.copyBufferToBuffer(memory[index], 0, made, 0, 4 * len);
    return made;
  });
  const commands = encoder.finish();
  device.queue.submit([commands]);
  const failures = [];
  for (const [i, { name, at, len, whole }] of test.outputs.entries()) {
    await staging[i].mapAsync(MAP_READ);
    const range = staging[i].getMappedRange();
    const found = whole ? new Uint32Array(range) : new Float32Array(range);
    const reference = new Float64Array(data(at, 8 * len).slice().buffer);
    // As `verify::relative_error`: relative to the largest number of the tensor.
    const scale = whole ? 1 : reference.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-3);
    let error = 0;
    for (let k = 0; k < len; k++) {
      const here = Math.abs(found[k] - reference[k]) / scale;
      if (!(here <= error)) error = here;
      if (Number.isNaN(error)) break;
    }
    if (!(error <= (whole ? 0 : test.tolerance))) failures.push(`${test.name} ${name}: ${error.toExponential(1)} > ${whole ? 0 : test.tolerance}`);
    staging[i].unmap();
  }
  [...memory, ...staging, ...temporary].forEach((x) => x.destroy?.());
  return failures;
}

const profile = wanted === 'webgpu' ? 'webgpu' : fixed;
if (profile !== 'webgpu' && !existsSync(join(shaders, 'cases', `${profile}.json`))) {
  console.log(`Dawn, ${wanted}: left out, there are no cases for subgroups of ${subgroupMinSize} to ${subgroupMaxSize} on this adapter`);
  process.exit(0);
}
let announced = Date.now();
const start = Date.now();
let failed = 0;
const read = (name) => JSON.parse(readFileSync(join(shaders, 'cases', `${name}.json`), 'utf8'));
const kernels = (test) => test.steps.map(({ kernel }) => kernel);
let tests = read(profile);
if (profile !== 'webgpu') {
  // What the base limits' profile runs too is not run twice.
  const known = new Set(read('webgpu').flatMap(kernels));
  tests = tests.filter((test) => !kernels(test).every((kernel) => known.has(kernel)));
}
const file = openSync(join(shaders, 'cases', `${profile}.bin`));
const data = (at, bytes) => { const b = new Uint8Array(bytes); readSync(file, b, 0, bytes, at); return b; };
tests = tests.slice(first - 1, last);
for (const [i, test] of tests.entries()) {
  const failures = await run(test, data);
  failures.forEach((f) => console.log(`FAILED ${profile} ${f}`));
  failed += failures.length > 0;
  if (Date.now() - announced > 3000) {
    announced = Date.now();
    console.error(`Dawn, ${profile}: ${i + 1} of ${tests.length} cases`);
  }
}
console.log(`Dawn, ${profile}: ${tests.length} cases of ${pipelines.size} kernels, ${failed} failed, ${((Date.now() - start) / 1000).toFixed(0)} s`);
process.exit(failed ? 1 : 0);
