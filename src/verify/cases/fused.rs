//! Cases of products together with the norm before them and the operations after them.

use super::{Case, variants};
use crate::ops::{Activation, DropoutMask, Function, Matmul, MatmulLayout};

pub(super) fn push(cases: &mut Vec<Case>) {
    activations(cases);
    dropout(cases);
}

/// Norm, activation and residual, which have no gradient.
fn activations(cases: &mut Vec<Case>) {
    let functions = [Function::Relu, Function::GeluTanh, Function::GeluErf, Function::Silu, Function::Tanh];
    // The last is too large for workgroup memory.
    for (i, [m, n, k]) in [[1, 5, 8], [3, 132, 40], [9, 12, 36], [2, 9, 7], [8, 36, 400]].into_iter().enumerate() {
        for (v, variant) in variants(cases).into_iter().enumerate() {
            for gated in [false, true] {
                for norm in [None, Some(1e-6)] {
                    let function = functions[(i + v) % functions.len()];
                    let residual = !gated && norm.is_some();
                    let name = format!("matmul [{m} {n} {k}] {variant:?} {function:?} gated={gated} norm={norm:?}");
                    cases.push(Case::new(name, move |b| {
                        let activation = Some(Activation { function, gated });
                        let op = Matmul {
                            norm,
                            activation,
                            residual,
                            variant: Some(variant),
                            ..Matmul::new(MatmulLayout::Nt)
                        };
                        // The oracle's erf is good for arguments of a few units: the products stay there.
                        let mut inputs = vec![b.constant("a", &[m, k], if norm.is_some() { 1.0 } else { 0.2 })];
                        inputs.push(b.constant("b", &[if gated { 2 * n } else { n }, k], 0.2));
                        inputs.extend(norm.map(|_| b.constant("scale", &[k], 1.0)));
                        inputs.extend(residual.then(|| b.constant("residual", &[m, n], 1.0)));
                        let c = b.graph.push1(op, &inputs);
                        b.output_constant("c", c);
                    }));
                }
            }
        }
    }
}

fn dropout(cases: &mut Vec<Case>) {
    for [m, n, k] in [[5, 3, 7], [33, 36, 40], [36, 40, 1100]] {
        for variant in variants(cases) {
            for residual in [false, true] {
                let name = format!("matmul [{m} {n} {k}] {variant:?} dropout residual={residual}");
                cases.push(Case::new(name, move |b| {
                    let dropout = Some(DropoutMask { rate: 0.25, site: 7 });
                    let op = Matmul { dropout, residual, variant: Some(variant), ..Matmul::new(MatmulLayout::Nt) };
                    let mut inputs = vec![b.input("a", &[m, k], 1.0), b.input("b", &[n, k], 1.0)];
                    inputs.push(b.ids("key", &[1, 2, 3, 4]));
                    inputs.extend(residual.then(|| b.input("residual", &[m, n], 1.0)));
                    let c = b.graph.push1(op, &inputs);
                    b.output("c", c);
                }));
            }
        }
    }
}
