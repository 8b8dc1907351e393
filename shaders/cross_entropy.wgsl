// Loss of rows of logits, and in place of the logits their gradient.
//
// ce = lse - logit[label]; the objective adds label smoothing (each wrong class gets smoothing / classes) and z_loss lse^2
// (t5-x's auxiliary loss). LANES invocations share a row and meet in workgroup memory; 64 / LANES rows a workgroup.
// Rows whose label is IGNORE count for nothing.

struct Params {
    rows: u32,
    first: u32, // row of the chunk's first logits in labels and row_stats
    width: u32, // Elems in a row
    classes: f32,
    smoothing: f32,
    z_loss: f32,
    grid_x: u32,
    first_group: u32,
}

const IGNORE = 0xffffffffu;
const LOWEST = -1e30;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> logits: array<Elem>; // [rows, width]
@group(0) @binding(2) var<storage, read> labels: array<u32>; // [all rows]
@group(0) @binding(3) var<storage, read> dstats: array<f32>; // [4]
@group(0) @binding(4) var<storage, read_write> row_stats: array<vec4<f32>>; // [all rows] of (ce, 1, correct, objective)

var<workgroup> partial: array<vec4<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let lane = index % LANES;
    let row = (p.first_group + group.y * p.grid_x + group.x) * (64u / LANES) + index / LANES;
    let start = min(row, p.rows - 1u) * p.width;
    let label = labels[p.first + min(row, p.rows - 1u)];

    var top = LOWEST;
    var at_label = 0.0;
    var total = 0.0; // of the logits
    var i = lane;
    loop {
        if i >= p.width { break; }
        let v = logits[start + i];
        top = max(top, emax(v));
        at_label += esum(select(Elem(0.0), v, eids(i) == Ids(label)));
        total += esum(v);
        i += LANES;
    }
    if LANES > 1u {
        partial[index] = vec4(top, at_label, total, 0.0);
        workgroupBarrier();
        top = LOWEST;
        at_label = 0.0;
        total = 0.0;
        for (var l = 0u; l < LANES; l++) {
            let other = partial[index - lane + l];
            top = max(top, other.x);
            at_label += other.y;
            total += other.z;
        }
        workgroupBarrier();
    }

    var sum = 0.0;
    var beaten = 0.0; // 1 if another class comes first: a larger logit, or an equal one of a lower id
    i = lane;
    loop {
        if i >= p.width { break; }
        let v = logits[start + i];
        sum += esum(exp(v - top));
        let equal_before = select(Elem(0.0), select(Elem(0.0), Elem(1.0), eids(i) < Ids(label)), v == Elem(at_label));
        beaten = max(beaten, emax(select(equal_before, Elem(1.0), v > Elem(at_label))));
        i += LANES;
    }
    if LANES > 1u {
        partial[index] = vec4(sum, beaten, 0.0, 0.0);
        workgroupBarrier();
        sum = 0.0;
        beaten = 0.0;
        for (var l = 0u; l < LANES; l++) {
            let other = partial[index - lane + l];
            sum += other.x;
            beaten = max(beaten, other.y);
        }
    }
    if row >= p.rows { return; }
    let counted = label != IGNORE;
    let lse = top + log(sum);
    if lane == 0u {
        let ce = lse - at_label;
        let smoothed = lse - (1.0 - p.smoothing) * at_label - p.smoothing * total / p.classes;
        let stats = vec4(ce, 1.0, 1.0 - beaten, smoothed + p.z_loss * lse * lse);
        row_stats[p.first + row] = select(vec4<f32>(), stats, vec4(counted));
    }
    if GRADIENT {
        let of_ce = dstats[0];
        let of_objective = dstats[3];
        let softmax_scale = of_ce + of_objective * (1.0 + 2.0 * p.z_loss * lse);
        let label_scale = of_ce + of_objective * (1.0 - p.smoothing);
        let everywhere = of_objective * p.smoothing / p.classes;
        i = lane;
        loop {
            if i >= p.width { break; }
            let probability = exp(logits[start + i] - lse);
            let hit = select(Elem(0.0), Elem(label_scale), eids(i) == Ids(label));
            let d = softmax_scale * probability - hit - everywhere;
            logits[start + i] = select(Elem(0.0), d, counted);
            i += LANES;
        }
    }
}
