//! Where the invocations of a kernel read: naga's form of its source, carried out for one invocation at a time on whole numbers
//! alone. What memory holds, and what floats come to, is unknown; a walk ends where its way depends on that.

use std::collections::HashMap;
use std::ops::Range;

use naga::proc::Layouter;
use naga::{
    AddressSpace, BinaryOperator, Block, BuiltIn, Expression, Function, GlobalVariable, Handle, Literal, LocalVariable,
    MathFunction, Module, ScalarKind, Statement, Type, TypeInner, UnaryOperator,
};
use t5_wgpu::gpu::Param;

/// A load from a storage variable: the bytes of it, and how many turns of loops came before.
pub struct Read {
    pub variable: String,
    pub turn: usize,
    pub bytes: Range<u32>,
}

/// Turns of loops after which a walk has seen enough.
const MOST_TURNS: usize = 64;

/// What invocation `lane` of workgroup `group` reads, in order, as far as that follows from the parameters.
pub fn reads(module: &Module, params: &[(&str, Param)], group: u32, lane: u32) -> Vec<Read> {
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).expect("types with sizes");
    let mut walk = Walk { module, layouter, params, turns: 0, reads: Vec::new() };
    let main = &module.entry_points[0].function;
    let arguments = main.arguments.iter().map(|argument| match argument.binding {
        Some(naga::Binding::BuiltIn(BuiltIn::LocalInvocationIndex)) => Value::Number(lane),
        _ => Value::Many(vec![Value::Number(group), Value::Number(0), Value::Number(0)]),
    });
    let arguments = arguments.collect();
    walk.call(main, arguments);
    walk.reads
}

#[derive(Clone, Debug)]
enum Value {
    Unknown,
    Number(u32),
    Many(Vec<Value>),
    /// A variable, and the way into it; `None` is an unknown index.
    Pointer(Root, Vec<Option<u32>>),
}

#[derive(Clone, Copy, Debug)]
enum Root {
    Local(Handle<LocalVariable>),
    Global(Handle<GlobalVariable>),
}

enum Flow {
    Next,
    Break,
    Continue,
    Return(Value),
    /// The rest is not followed.
    End,
}

struct Walk<'a> {
    module: &'a Module,
    layouter: Layouter,
    params: &'a [(&'a str, Param)],
    turns: usize,
    reads: Vec<Read>,
}

struct Frame<'a> {
    function: &'a Function,
    arguments: Vec<Value>,
    locals: HashMap<Handle<LocalVariable>, Value>,
    known: HashMap<Handle<Expression>, Value>,
}

impl Value {
    fn element(&self, index: Option<u32>) -> Value {
        match (self, index) {
            (Value::Many(values), Some(i)) => values.get(i as usize).cloned().unwrap_or(Value::Unknown),
            (Value::Pointer(root, way), _) => Value::Pointer(*root, way.iter().copied().chain([index]).collect()),
            _ => Value::Unknown,
        }
    }

    fn number(&self) -> Option<u32> {
        if let Value::Number(number) = self { Some(*number) } else { None }
    }

    /// Applied to all components, of which a single number has as many as needed.
    fn zip(values: &[&Value], of: &dyn Fn(&[u32]) -> Option<u32>) -> Value {
        let width = values.iter().filter_map(|v| if let Value::Many(v) = v { Some(v.len()) } else { None }).max();
        let Some(width) = width else {
            let numbers: Option<Vec<u32>> = values.iter().map(|v| v.number()).collect();
            return numbers.and_then(|numbers| of(&numbers)).map_or(Value::Unknown, Value::Number);
        };
        let component = |v: &Value, i: usize| if let Value::Many(v) = v { v[i].clone() } else { v.clone() };
        let each = (0..width).map(|i| {
            let parts: Vec<Value> = values.iter().map(|v| component(v, i)).collect();
            Value::zip(&parts.iter().collect::<Vec<_>>(), of)
        });
        Value::Many(each.collect())
    }
}

impl<'a> Walk<'a> {
    fn call(&mut self, function: &'a Function, arguments: Vec<Value>) -> Option<Value> {
        let mut frame = Frame { function, arguments, locals: HashMap::new(), known: HashMap::new() };
        for (handle, variable) in function.local_variables.iter() {
            let first = match variable.init {
                Some(init) => self.value(&mut frame, init),
                None => self.zero(variable.ty),
            };
            frame.locals.insert(handle, first);
        }
        match self.block(&mut frame, &function.body) {
            Flow::End => None,
            Flow::Return(value) => Some(value),
            _ => Some(Value::Unknown),
        }
    }

    fn block(&mut self, frame: &mut Frame<'a>, block: &'a Block) -> Flow {
        for statement in block.iter() {
            let flow = self.statement(frame, statement);
            if !matches!(flow, Flow::Next) {
                return flow;
            }
        }
        Flow::Next
    }

    fn statement(&mut self, frame: &mut Frame<'a>, statement: &'a Statement) -> Flow {
        match statement {
            Statement::Emit(range) => {
                for expression in range.clone() {
                    let value = self.evaluate(frame, expression);
                    frame.known.insert(expression, value);
                }
            }
            Statement::Block(block) => return self.block(frame, block),
            Statement::If { condition, accept, reject } => match self.value(frame, *condition).number() {
                Some(0) => return self.block(frame, reject),
                Some(_) => return self.block(frame, accept),
                None => return Flow::End,
            },
            Statement::Loop { body, continuing, break_if } => loop {
                self.turns += 1;
                if self.turns > MOST_TURNS {
                    return Flow::End;
                }
                match self.block(frame, body) {
                    Flow::Break => return Flow::Next,
                    Flow::Next | Flow::Continue => {}
                    other => return other,
                }
                if let end @ (Flow::End | Flow::Return(_)) = self.block(frame, continuing) {
                    return end;
                }
                match break_if.map(|condition| self.value(frame, condition).number()) {
                    None | Some(Some(0)) => {}
                    Some(Some(_)) => return Flow::Next,
                    Some(None) => return Flow::End,
                }
            },
            Statement::Break => return Flow::Break,
            Statement::Continue => return Flow::Continue,
            Statement::Return { value } => {
                return Flow::Return(value.map_or(Value::Unknown, |value| self.value(frame, value)));
            }
            Statement::Call { function, arguments, result } => {
                let arguments = arguments.iter().map(|argument| self.value(frame, *argument)).collect();
                let Some(value) = self.call(&self.module.functions[*function], arguments) else { return Flow::End };
                frame.known.extend(result.map(|result| (result, value)));
            }
            Statement::Store { pointer, value } => {
                let value = self.value(frame, *value);
                if let Value::Pointer(Root::Local(variable), way) = self.value(frame, *pointer) {
                    let mut place = frame.locals.get_mut(&variable);
                    for index in way {
                        place = match (place, index) {
                            (Some(Value::Many(values)), Some(i)) => values.get_mut(i as usize),
                            _ => None,
                        };
                    }
                    if let Some(place) = place {
                        *place = value;
                    }
                }
            }
            Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) => {}
            _ => return Flow::End,
        }
        Flow::Next
    }

    fn value(&mut self, frame: &mut Frame<'a>, expression: Handle<Expression>) -> Value {
        match frame.known.get(&expression) {
            Some(value) => value.clone(),
            None => self.evaluate(frame, expression),
        }
    }

    fn evaluate(&mut self, frame: &mut Frame<'a>, expression: Handle<Expression>) -> Value {
        let function = frame.function;
        match &function.expressions[expression] {
            Expression::FunctionArgument(i) => frame.arguments[*i as usize].clone(),
            Expression::LocalVariable(variable) => Value::Pointer(Root::Local(*variable), Vec::new()),
            Expression::GlobalVariable(variable) => Value::Pointer(Root::Global(*variable), Vec::new()),
            Expression::Access { base, index } => {
                let index = self.value(frame, *index).number();
                self.value(frame, *base).element(index)
            }
            Expression::AccessIndex { base, index } => self.value(frame, *base).element(Some(*index)),
            Expression::Load { pointer } => match self.value(frame, *pointer) {
                Value::Pointer(Root::Local(variable), way) => {
                    way.iter().fold(frame.locals[&variable].clone(), |value, index| value.element(*index))
                }
                Value::Pointer(Root::Global(variable), way) => self.load(variable, &way),
                _ => Value::Unknown,
            },
            Expression::Binary { op, left, right } => {
                let (left, right) = (self.value(frame, *left), self.value(frame, *right));
                Value::zip(&[&left, &right], &|v| binary(*op, v[0], v[1]))
            }
            Expression::Unary { op, expr } => {
                let value = self.value(frame, *expr);
                Value::zip(&[&value], &|v| match op {
                    UnaryOperator::LogicalNot => Some(1 - v[0]),
                    UnaryOperator::BitwiseNot => Some(!v[0]),
                    UnaryOperator::Negate => Some(v[0].wrapping_neg()),
                })
            }
            Expression::Select { condition, accept, reject } => {
                let [condition, accept, reject] = [condition, accept, reject].map(|e| self.value(frame, *e));
                match condition {
                    Value::Number(0) => reject,
                    Value::Number(_) => accept,
                    _ => Value::zip(&[&condition, &accept, &reject], &|v| Some(v[if v[0] == 0 { 2 } else { 1 }])),
                }
            }
            Expression::Math { fun, arg, arg1: Some(arg1), .. } => {
                let (a, b) = (self.value(frame, *arg), self.value(frame, *arg1));
                Value::zip(&[&a, &b], &|v| match fun {
                    MathFunction::Min => Some(v[0].min(v[1])),
                    MathFunction::Max => Some(v[0].max(v[1])),
                    _ => None,
                })
            }
            Expression::As { expr, kind, .. } if *kind != ScalarKind::Float => self.value(frame, *expr),
            Expression::Swizzle { size, vector, pattern } => {
                let vector = self.value(frame, *vector);
                let parts = pattern[..*size as usize].iter().map(|part| vector.element(Some(*part as u32)));
                Value::Many(parts.collect())
            }
            Expression::Splat { size, value } => Value::Many(vec![self.value(frame, *value); *size as usize]),
            Expression::Compose { ty, components } => {
                let parts: Vec<Value> = components.iter().map(|part| self.value(frame, *part)).collect();
                self.compose(*ty, parts)
            }
            constant => self.constant(constant),
        }
    }

    /// What needs no function.
    fn constant(&self, expression: &Expression) -> Value {
        match expression {
            Expression::Literal(Literal::U32(number)) => Value::Number(*number),
            Expression::Literal(Literal::I32(number)) => Value::Number(*number as u32),
            Expression::Literal(Literal::Bool(is)) => Value::Number(u32::from(*is)),
            Expression::ZeroValue(ty) => self.zero(*ty),
            Expression::Constant(constant) => {
                self.constant(&self.module.global_expressions[self.module.constants[*constant].init])
            }
            Expression::Compose { ty, components } => {
                let parts = components.iter().map(|part| self.constant(&self.module.global_expressions[*part]));
                self.compose(*ty, parts.collect())
            }
            _ => Value::Unknown,
        }
    }

    /// A vector may be made of shorter ones.
    fn compose(&self, ty: Handle<Type>, parts: Vec<Value>) -> Value {
        let TypeInner::Vector { size, .. } = self.module.types[ty].inner else { return Value::Many(parts) };
        let flat: Vec<Value> =
            parts.into_iter().flat_map(|part| if let Value::Many(parts) = part { parts } else { vec![part] }).collect();
        if flat.len() == size as usize { Value::Many(flat) } else { Value::Unknown }
    }

    fn zero(&self, ty: Handle<Type>) -> Value {
        match &self.module.types[ty].inner {
            TypeInner::Scalar(scalar) if scalar.kind != ScalarKind::Float => Value::Number(0),
            TypeInner::Vector { size, scalar } if scalar.kind != ScalarKind::Float => {
                Value::Many(vec![Value::Number(0); *size as usize])
            }
            TypeInner::Array { base, size: naga::ArraySize::Constant(size), .. } => {
                Value::Many(vec![self.zero(*base); size.get() as usize])
            }
            TypeInner::Struct { members, .. } => Value::Many(members.iter().map(|m| self.zero(m.ty)).collect()),
            _ => Value::Unknown,
        }
    }

    fn load(&mut self, variable: Handle<GlobalVariable>, way: &[Option<u32>]) -> Value {
        let GlobalVariable { name, space, ty, .. } = &self.module.global_variables[variable];
        let name = name.as_deref().unwrap_or_default();
        let (mut ty, mut start, mut member) = (*ty, 0, "");
        let mut len = self.layouter[ty].size;
        for index in way {
            let Some(index) = *index else {
                assert!(!matches!(space, AddressSpace::Storage { .. }), "{name} is read where other memory says");
                return Value::Unknown;
            };
            match &self.module.types[ty].inner {
                TypeInner::Array { base, stride, .. } => (start, ty) = (start + index * stride, *base),
                TypeInner::Struct { members, .. } => {
                    let at = &members[index as usize];
                    (start, ty, member) = (start + at.offset, at.ty, at.name.as_deref().unwrap_or_default());
                }
                // A component, the end of the way.
                _ => {
                    start += 4 * index;
                    len = 4;
                    break;
                }
            }
            len = self.layouter[ty].size;
        }
        match space {
            AddressSpace::Storage { .. } => {
                let bytes = start..start + len;
                self.reads.push(Read { variable: name.to_owned(), turn: self.turns, bytes });
                Value::Unknown
            }
            AddressSpace::Uniform if name == "p" && member == "grid_x" => Value::Number(65_535),
            AddressSpace::Uniform if name == "p" && member == "first_group" => Value::Number(0),
            AddressSpace::Uniform if name == "p" => {
                match self.params.iter().find(|(name, _)| *name == member).map(|(_, value)| value) {
                    Some(Param::U32(number)) => Value::Number(*number),
                    _ => Value::Unknown,
                }
            }
            _ => Value::Unknown,
        }
    }
}

fn binary(op: BinaryOperator, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        BinaryOperator::Add => a.wrapping_add(b),
        BinaryOperator::Subtract => a.wrapping_sub(b),
        BinaryOperator::Multiply => a.wrapping_mul(b),
        BinaryOperator::Divide => a.checked_div(b)?,
        BinaryOperator::Modulo => a.checked_rem(b)?,
        BinaryOperator::Equal => u32::from(a == b),
        BinaryOperator::NotEqual => u32::from(a != b),
        BinaryOperator::Less => u32::from(a < b),
        BinaryOperator::LessEqual => u32::from(a <= b),
        BinaryOperator::Greater => u32::from(a > b),
        BinaryOperator::GreaterEqual => u32::from(a >= b),
        BinaryOperator::And | BinaryOperator::LogicalAnd => a & b,
        BinaryOperator::InclusiveOr | BinaryOperator::LogicalOr => a | b,
        BinaryOperator::ExclusiveOr => a ^ b,
        BinaryOperator::ShiftLeft => a.wrapping_shl(b),
        BinaryOperator::ShiftRight => a.wrapping_shr(b),
    })
}
