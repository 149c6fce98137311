//! Expressions of the subset: literals, names, operators, conditionals, subscripts, f-strings and a few builtins.
//! Each of the others is refused by name.
use crate::arith;
use crate::parse::Source;
use crate::value::{Node, Place, Problem, Value};
use ruff_python_ast::{
    Arguments, BoolOp, ConversionFlag, Expr, ExprCall, ExprFString, FStringPart, InterpolatedStringElement, Number,
};
use ruff_text_size::Ranged;
use std::collections::{HashMap, HashSet};

/// Values that all expressions of a config may come to together: far beyond any config, and a bound on time and memory.
const MOST_VALUES: usize = 1_000_000;
/// Levels of lists and dicts in each other.
const MOST_DEPTH: usize = 32;
/// Keys of a dict.
const MOST_KEYS: usize = 4096;

/// Why an expression has no value.
pub enum Stop {
    /// Reported for the first time.
    New(Problem),
    /// It reads a name whose own problem is reported already.
    Known,
}

pub type Eval<T> = Result<T, Stop>;

/// Values by name; None after an assignment that failed.
pub type Names = HashMap<String, Option<Node>>;

/// What expressions are evaluated in.
pub struct Scope<'a> {
    pub source: &'a Source,
    pub names: &'a Names,
    /// Names that were read.
    pub used: &'a mut HashSet<String>,
    /// Values so far.
    pub spent: &'a mut usize,
}

/// What can be called.
const BUILTINS: [&str; 12] =
    ["dict", "int", "float", "str", "bool", "abs", "min", "max", "round", "len", "list", "tuple"];

const WRITE_IT_OUT: &str = "a config is read as data and nothing is executed; write the value itself";

impl Scope<'_> {
    fn place(&self, at: &impl Ranged) -> Place {
        self.source.place(at.range())
    }

    pub fn refuse<T>(&self, at: &impl Ranged, message: impl Into<String>) -> Eval<T> {
        Err(Stop::New(Problem { place: self.place(at), message: message.into() }))
    }

    /// The value of an expression, with the place of what it is given to.
    pub fn node(&mut self, at: Place, expr: &Expr) -> Eval<Node> {
        Ok(Node { place: at, value: self.eval(expr)? })
    }

    pub fn eval(&mut self, expr: &Expr) -> Eval<Value> {
        let value = match expr {
            Expr::NoneLiteral(_) => Value::None,
            Expr::BooleanLiteral(literal) => Value::Bool(literal.value),
            Expr::NumberLiteral(literal) => match &literal.value {
                Number::Int(n) => match n.as_i64() {
                    Some(n) => Value::Int(n),
                    None => return self.refuse(expr, "a number beyond 64 bits; nothing in a config is that large"),
                },
                Number::Float(x) => Value::Float(*x),
                Number::Complex { .. } => return self.refuse(expr, "a complex number: nothing in a config is one"),
            },
            Expr::StringLiteral(literal) => Value::Str(literal.value.to_str().into()),
            Expr::FString(f) => Value::Str(self.f_string(f)?),
            Expr::Name(name) => self.name(expr, name.id.as_str())?,
            Expr::List(list) => Value::List(self.items(&list.elts)?),
            Expr::Tuple(tuple) => Value::Tuple(self.items(&tuple.elts)?),
            Expr::Dict(dict) => {
                let mut entries = vec![];
                for item in &dict.items {
                    match &item.key {
                        Some(key) => {
                            let Value::Str(name) = self.eval(key)? else {
                                return self.refuse(key, "the key of a dict must be a string here");
                            };
                            let node = self.node(self.place(key), &item.value)?;
                            self.put(key, &mut entries, name, node)?;
                        }
                        None => self.splice(&item.value, &mut entries)?,
                    }
                }
                Value::Dict(entries)
            }
            Expr::UnaryOp(op) => {
                let x = self.eval(&op.operand)?;
                self.done(expr, arith::unary(op.op, &x))?
            }
            Expr::BinOp(op) => {
                let (a, b) = (self.eval(&op.left)?, self.eval(&op.right)?);
                self.done(expr, arith::binary(op.op, &a, &b))?
            }
            Expr::BoolOp(op) => {
                // `and` and `or` give the operand that decides.
                let (last, rest) = op.values.split_last().expect("the parser gives two or more");
                for operand in rest {
                    let value = self.eval(operand)?;
                    if value.is_true() == (op.op == BoolOp::Or) {
                        return Ok(value);
                    }
                }
                self.eval(last)?
            }
            Expr::Compare(chain) => {
                let mut left = self.eval(&chain.left)?;
                for (op, right) in chain.ops.iter().zip(&chain.comparators) {
                    let right = self.eval(right)?;
                    if !self.done(expr, arith::compare(*op, &left, &right))? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::If(choice) => {
                let branch = if self.eval(&choice.test)?.is_true() { &choice.body } else { &choice.orelse };
                self.eval(branch)?
            }
            Expr::Subscript(subscript) => {
                let (of, at) = (self.eval(&subscript.value)?, self.eval(&subscript.slice)?);
                self.subscript(expr, &of, &at)?
            }
            Expr::Call(call) => self.call(call)?,
            Expr::Attribute(attribute) => {
                let dotted = match &*attribute.value {
                    Expr::Name(of) => format!("{}.{}", of.id, attribute.attr.id),
                    _ => format!(".{}", attribute.attr.id),
                };
                return self.refuse(expr, format!("{dotted} is an attribute, which is not read: {WRITE_IT_OUT}"));
            }
            other => return self.refuse(expr, format!("{} is not read: {WRITE_IT_OUT}", construct(other))),
        };
        self.spend(expr, &value)?;
        Ok(value)
    }

    fn done<T>(&self, at: &impl Ranged, result: Result<T, String>) -> Eval<T> {
        result.or_else(|message| self.refuse(at, message))
    }

    fn spend(&mut self, at: &impl Ranged, value: &Value) -> Eval<()> {
        let (size, depth) = value.extent();
        *self.spent += size;
        if *self.spent > MOST_VALUES {
            return self
                .refuse(at, format!("the config comes to more than {MOST_VALUES} values; make its lists shorter"));
        }
        if depth > MOST_DEPTH {
            return self.refuse(at, format!("lists and dicts nest deeper than {MOST_DEPTH}; no section does"));
        }
        Ok(())
    }

    fn name(&mut self, at: &Expr, name: &str) -> Eval<Value> {
        match self.names.get(name) {
            Some(Some(node)) => {
                self.used.insert(name.into());
                Ok(node.value.clone())
            }
            Some(None) => Err(Stop::Known),
            None if BUILTINS.contains(&name) => self.refuse(at, format!("{name} is a function, not a value")),
            None => {
                let known: Vec<&str> = self.names.keys().map(String::as_str).collect();
                // Among thousands of names nothing is near, and to compare them all is slow.
                let near = (known.len() < 500).then(|| crate::section::nearest(name, &known)).flatten();
                let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
                self.refuse(at, format!("{name} is not defined above this line{near}"))
            }
        }
    }

    fn items(&mut self, items: &[Expr]) -> Eval<Vec<Node>> {
        items.iter().map(|item| self.node(self.place(item), item)).collect()
    }

    fn put(&self, at: &impl Ranged, entries: &mut Vec<(String, Node)>, key: String, node: Node) -> Eval<()> {
        if let Some((_, old)) = entries.iter_mut().find(|(name, _)| *name == key) {
            *old = node;
        } else if entries.len() == MOST_KEYS {
            return self.refuse(at, format!("a dict of more than {MOST_KEYS} keys: no section is that large"));
        } else {
            entries.push((key, node));
        }
        Ok(())
    }

    /// `**other`
    fn splice(&mut self, other: &Expr, entries: &mut Vec<(String, Node)>) -> Eval<()> {
        let Value::Dict(more) = self.eval(other)? else { return self.refuse(other, "** takes a dict") };
        more.into_iter().try_for_each(|(key, node)| self.put(other, entries, key, node))
    }

    fn subscript(&self, expr: &Expr, of: &Value, at: &Value) -> Eval<Value> {
        match (of, at) {
            (Value::Dict(entries), Value::Str(key)) => match entries.iter().find(|(name, _)| name == key) {
                Some((_, node)) => Ok(node.value.clone()),
                None => self.refuse(expr, format!("there is no {key:?} in this dict")),
            },
            (Value::List(items) | Value::Tuple(items), Value::Int(i)) => {
                let from_end = if *i < 0 { items.len() as i64 } else { 0 };
                let found = i.checked_add(from_end).and_then(|i| usize::try_from(i).ok()).and_then(|i| items.get(i));
                match found {
                    Some(node) => Ok(node.value.clone()),
                    None => self.refuse(expr, format!("there is no item {i} among {}", items.len())),
                }
            }
            (of, at) => self.refuse(expr, format!("[{}] cannot be taken of {}", at.kind(), of.kind())),
        }
    }

    fn f_string(&mut self, f: &ExprFString) -> Eval<String> {
        let mut out = String::new();
        for part in f.value.as_slice() {
            match part {
                FStringPart::Literal(literal) => out.push_str(&literal.value),
                FStringPart::FString(f) => {
                    for element in &f.elements {
                        match element {
                            InterpolatedStringElement::Literal(literal) => out.push_str(&literal.value),
                            InterpolatedStringElement::Interpolation(hole) => {
                                if hole.format_spec.is_some() || hole.debug_text.is_some() {
                                    return self.refuse(
                                        hole,
                                        "a format (after : or =) in an f-string is not read: write the text as it should be",
                                    );
                                }
                                let value = self.eval(&hole.expression)?;
                                out.push_str(&match hole.conversion {
                                    ConversionFlag::None | ConversionFlag::Str => value.str(),
                                    ConversionFlag::Repr => value.to_string(),
                                    ConversionFlag::Ascii => return self.refuse(hole, "!a is not read; write !r"),
                                });
                            }
                        }
                        if out.len() > arith::MOST_LENGTH {
                            return self.refuse(f, format!("comes to more than {} bytes", arith::MOST_LENGTH));
                        }
                    }
                }
            }
        }
        Ok(out)
    }

    fn call(&mut self, call: &ExprCall) -> Eval<Value> {
        let name = match &*call.func {
            Expr::Name(name) => name.id.as_str(),
            Expr::Attribute(method) => {
                let method = &method.attr.id;
                return self
                    .refuse(call, format!(".{method}(...) would be executed, which is not done: {WRITE_IT_OUT}"));
            }
            _ => return self.refuse(call, format!("a call of a computed function is not read: {WRITE_IT_OUT}")),
        };
        if self.names.contains_key(name) || !BUILTINS.contains(&name) {
            let there_are = BUILTINS.join(", ");
            return self
                .refuse(call, format!("{name}(...) is not read: {WRITE_IT_OUT} (of functions, only {there_are})"));
        }
        if name == "dict" {
            return self.dict(&call.arguments);
        }
        if let Some(keyword) = call.arguments.keywords.first() {
            return self.refuse(keyword, format!("{name}() with a keyword is not read: {WRITE_IT_OUT}"));
        }
        let args: Vec<Value> = self.items(&call.arguments.args)?.into_iter().map(|node| node.value).collect();
        let result = builtin(name, &args);
        self.done(call, result)
    }

    /// `dict(other, a=1, **more)`
    fn dict(&mut self, arguments: &Arguments) -> Eval<Value> {
        let mut entries = vec![];
        for (i, other) in arguments.args.iter().enumerate() {
            if i > 0 || matches!(other, Expr::Starred(_)) {
                return self.refuse(other, "dict() takes one dict, and keywords");
            }
            self.splice(other, &mut entries)?;
        }
        for keyword in &arguments.keywords {
            match &keyword.arg {
                Some(key) => {
                    let node = self.node(self.place(keyword), &keyword.value)?;
                    self.put(keyword, &mut entries, key.id.as_str().into(), node)?;
                }
                None => self.splice(&keyword.value, &mut entries)?,
            }
        }
        Ok(Value::Dict(entries))
    }
}

/// The builtins that take values and give one.
fn builtin(name: &str, args: &[Value]) -> Result<Value, String> {
    let wrong = || {
        let kinds: Vec<&str> = args.iter().map(Value::kind).collect();
        Err(format!("{name}({}) is not read", kinds.join(", ")))
    };
    Ok(match (name, args) {
        ("int", [Value::Int(n)]) => Value::Int(*n),
        ("int", [Value::Bool(b)]) => Value::Int((*b).into()),
        // The first float beyond i64 is 2^63, which `i64::MAX as f64` rounds to.
        ("int", [Value::Float(x)]) if x.abs() < i64::MAX as f64 => Value::Int(x.trunc() as i64),
        ("int", [Value::Str(s)]) => match s.trim().parse() {
            Ok(n) => Value::Int(n),
            Err(_) => return Err(format!("int({s:?}) is no whole number of 64 bits")),
        },
        ("float", [Value::Str(s)]) => match s.trim().parse() {
            Ok(x) => Value::Float(x),
            Err(_) => return Err(format!("float({s:?}) is no number")),
        },
        ("float", [x]) if arith::number(x).is_some() => Value::Float(arith::number(x).expect("just checked")),
        ("str", [x]) => Value::Str(x.str()),
        ("bool", [x]) => Value::Bool(x.is_true()),
        ("abs", [Value::Int(n)]) => n.checked_abs().map(Value::Int).ok_or("abs() of it is beyond 64 bits")?,
        ("abs", [Value::Float(x)]) => Value::Float(x.abs()),
        ("round", [Value::Int(n)]) => Value::Int(*n),
        ("round", [Value::Float(x)]) => return builtin("int", &[Value::Float(x.round_ties_even())]),
        ("round", [Value::Float(x), Value::Int(digits @ 0..=15)]) => {
            Value::Float(format!("{x:.*}", *digits as usize).parse().expect("a formatted float is a float"))
        }
        ("len", [Value::List(items) | Value::Tuple(items)]) => Value::Int(items.len() as i64),
        ("len", [Value::Dict(entries)]) => Value::Int(entries.len() as i64),
        ("len", [Value::Str(s)]) => Value::Int(s.chars().count() as i64),
        ("list", []) => Value::List(vec![]),
        ("tuple", []) => Value::Tuple(vec![]),
        ("list", [Value::List(items) | Value::Tuple(items)]) => Value::List(items.clone()),
        ("tuple", [Value::List(items) | Value::Tuple(items)]) => Value::Tuple(items.clone()),
        ("min" | "max", [Value::List(items) | Value::Tuple(items)]) => {
            let items: Vec<Value> = items.iter().map(|node| node.value.clone()).collect();
            return extreme(name, &items);
        }
        ("min" | "max", args) => return extreme(name, args),
        _ => return wrong(),
    })
}

/// The first of the smallest or largest.
fn extreme(name: &str, items: &[Value]) -> Result<Value, String> {
    let (first, rest) = items.split_first().ok_or_else(|| format!("{name}() of nothing"))?;
    let mut best = first;
    for item in rest {
        let order = arith::order(item, best);
        let order = order.ok_or_else(|| format!("{name}() cannot compare {} and {}", item.kind(), best.kind()))?;
        if if name == "min" { order.is_lt() } else { order.is_gt() } {
            best = item;
        }
    }
    Ok(best.clone())
}

/// What is refused, in words.
fn construct(expr: &Expr) -> &'static str {
    match expr {
        Expr::Lambda(_) => "a lambda",
        Expr::ListComp(_) | Expr::SetComp(_) | Expr::DictComp(_) | Expr::Generator(_) => "a comprehension",
        Expr::Set(_) => "a set",
        Expr::Named(_) => "an assignment inside an expression (:=)",
        Expr::Await(_) | Expr::Yield(_) | Expr::YieldFrom(_) => "a coroutine",
        Expr::TString(_) => "a t-string",
        Expr::BytesLiteral(_) => "a bytes literal",
        Expr::EllipsisLiteral(_) => "...",
        Expr::Starred(_) => "an unpacking (*)",
        Expr::Slice(_) => "a slice",
        Expr::IpyEscapeCommand(_) => "an IPython command",
        Expr::NoneLiteral(_)
        | Expr::BooleanLiteral(_)
        | Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::FString(_)
        | Expr::Name(_)
        | Expr::List(_)
        | Expr::Tuple(_)
        | Expr::Dict(_)
        | Expr::UnaryOp(_)
        | Expr::BinOp(_)
        | Expr::BoolOp(_)
        | Expr::Compare(_)
        | Expr::If(_)
        | Expr::Subscript(_)
        | Expr::Call(_)
        | Expr::Attribute(_) => unreachable!("evaluated above"),
    }
}
