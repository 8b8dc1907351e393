// The activation functions of T5's feed-forward network and their derivatives, chosen by KIND.

const SQRT_2_OVER_PI = 0.7978845608028654;
const CUBIC = 0.044715;

// Some drivers' tanh overflows to NaN beyond about 44; at 10 it is 1 already.
fn safe_tanh(x: Elem) -> Elem {
    return tanh(clamp(x, Elem(-10.0), Elem(10.0)));
}

// Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
fn erf(x: Elem) -> Elem {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - poly * exp(-x * x));
}

fn sigmoid(x: Elem) -> Elem {
    return 1.0 / (1.0 + exp(-clamp(x, Elem(-80.0), Elem(80.0))));
}

fn activate(x: Elem) -> Elem {
    if KIND == 0u {
        return max(x, Elem(0.0));
    } else if KIND == 1u {
        return 0.5 * x * (1.0 + safe_tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x)));
    } else if KIND == 2u {
        return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
    } else if KIND == 3u {
        return x * sigmoid(x);
    }
    return safe_tanh(x);
}

fn activate_derivative(x: Elem) -> Elem {
    if KIND == 0u {
        return step(Elem(1e-38), x);
    } else if KIND == 1u {
        let t = safe_tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
    } else if KIND == 2u {
        return 0.5 * (1.0 + erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * exp(-0.5 * x * x);
    } else if KIND == 3u {
        let s = sigmoid(x);
        return s * (1.0 + x * (1.0 - s));
    }
    let t = safe_tanh(x);
    return 1.0 - t * t;
}
