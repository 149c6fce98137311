//! A file's statements, top down: assignments, and imports of base files. Every other statement is refused by name.
use crate::Read;
use crate::arith;
use crate::expr::{Eval, Names, Scope, Stop};
use crate::parse::{Source, parse};
use crate::value::{Node, Place, Problem, Value};
use ruff_python_ast::{Alias, Expr, Stmt, StmtImportFrom, StmtWith};
use ruff_text_size::Ranged;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// Files that import each other in a row.
const MOST_IMPORTS_DEEP: usize = 8;
/// Files read for one config.
const MOST_FILES: usize = 64;
/// Folders above a relative path that are searched for the root of a base file.
const MOST_FOLDERS_UP: usize = 8;

/// A config's names.
pub struct Module {
    pub names: Names,
    /// Those that expressions read.
    pub used: HashSet<String>,
}

/// Evaluates the file and what it imports; all problems at once.
pub fn evaluate(path: &Path, read: Read) -> Result<Module, Vec<Problem>> {
    let mut evaluator = Evaluator { read, stack: vec![], files: 0, spent: 0, problems: vec![] };
    let bytes =
        read(path).map_err(|e| vec![Problem { place: Place::file(path), message: format!("cannot be read: {e}") }])?;
    let module = evaluator.file(path, &bytes);
    if evaluator.problems.is_empty() { Ok(module) } else { Err(evaluator.problems) }
}

struct Evaluator<'a> {
    read: Read<'a>,
    /// The files under way, from the config to the base at hand.
    stack: Vec<PathBuf>,
    files: usize,
    spent: usize,
    problems: Vec<Problem>,
}

impl Evaluator<'_> {
    fn file(&mut self, path: &Path, bytes: &[u8]) -> Module {
        let mut module = Module { names: Names::new(), used: HashSet::new() };
        self.files += 1;
        self.stack.push(path.into());
        match parse(path, bytes) {
            Ok(source) => source.body.iter().for_each(|statement| self.statement(&source, statement, &mut module)),
            Err(problem) => self.problems.push(problem),
        }
        self.stack.pop();
        module
    }

    fn statement(&mut self, source: &Source, statement: &Stmt, module: &mut Module) {
        let done = match statement {
            Stmt::Pass(_) => Ok(()),
            // A text that stands alone is a comment.
            Stmt::Expr(text) if text.value.is_string_literal_expr() => Ok(()),
            Stmt::Expr(lone) => self.value(source, &lone.value, module).map(|_| ()),
            Stmt::Assign(assign) => match self.value(source, &assign.value, module) {
                Ok(value) => assign.targets.iter().try_for_each(|t| self.assign(source, t, value.clone(), module)),
                Err(stop) => {
                    assign.targets.iter().for_each(|target| forget(target, module));
                    Err(stop)
                }
            },
            Stmt::AnnAssign(assign) => match &assign.value {
                None => Ok(()),
                Some(value) => match self.value(source, value, module) {
                    Ok(value) => self.assign(source, &assign.target, value, module),
                    Err(stop) => {
                        forget(&assign.target, module);
                        Err(stop)
                    }
                },
            },
            Stmt::AugAssign(assign) => {
                let both = self
                    .value(source, &assign.target, module)
                    .and_then(|old| Ok((old, self.value(source, &assign.value, module)?)));
                let value = both.and_then(|(old, new)| match old {
                    // Other names of the same list would see the change.
                    Value::List(_) => {
                        self.scope(source, module).refuse(assign, "+= on a list is not read; write a + b")
                    }
                    old => arith::binary(assign.op, &old, &new)
                        .or_else(|message| self.scope(source, module).refuse(assign, message)),
                });
                match value {
                    Ok(value) => self.assign(source, &assign.target, value, module),
                    Err(stop) => {
                        forget(&assign.target, module);
                        Err(stop)
                    }
                }
            }
            Stmt::With(with) => return self.read_base(source, with, module),
            Stmt::ImportFrom(import) => self.plain_import(source, import, module),
            Stmt::Import(import) => {
                let names: Vec<&str> = import.names.iter().map(|alias| alias.name.id.as_str()).collect();
                let way_out = "nothing is executed; write the value it is imported for";
                self.scope(source, module).refuse(import, format!("import {} is not read: {way_out}", names.join(", ")))
            }
            other => {
                let way_out = "a config is a list of assignments, of which nothing is executed";
                self.scope(source, module).refuse(other, format!("{} is not read: {way_out}", construct(other)))
            }
        };
        if let Err(Stop::New(problem)) = done {
            self.problems.push(problem);
        }
    }

    fn scope<'a>(&'a mut self, source: &'a Source, module: &'a mut Module) -> Scope<'a> {
        Scope { source, names: &module.names, used: &mut module.used, spent: &mut self.spent }
    }

    fn value(&mut self, source: &Source, expr: &Expr, module: &mut Module) -> Eval<Value> {
        self.scope(source, module).eval(expr)
    }

    fn assign(&mut self, source: &Source, target: &Expr, value: Value, module: &mut Module) -> Eval<()> {
        match target {
            Expr::Name(name) => {
                let node = Node { place: source.place(target.range()), value };
                module.names.insert(name.id.to_string(), Some(node));
                Ok(())
            }
            Expr::Tuple(targets) => self.unpack(source, &targets.elts, target, value, module),
            Expr::List(targets) => self.unpack(source, &targets.elts, target, value, module),
            Expr::Subscript(_) => {
                let way_out = "give the key its value where the dict is written";
                self.scope(source, module)
                    .refuse(target, format!("an assignment to a part of a dict is not read: {way_out}"))
            }
            _ => self.scope(source, module).refuse(target, "only names can be assigned to"),
        }
    }

    fn unpack(&mut self, source: &Source, targets: &[Expr], all: &Expr, value: Value, module: &mut Module) -> Eval<()> {
        match value {
            Value::List(items) | Value::Tuple(items) if items.len() == targets.len() => {
                targets.iter().zip(items).try_for_each(|(t, item)| self.assign(source, t, item.value, module))
            }
            _ => {
                forget(all, module);
                self.scope(source, module).refuse(all, format!("{} names need as many values", targets.len()))
            }
        }
    }

    /// `from internlm.utils.common import read_base` announces the base imports; there is nothing to load.
    fn plain_import(&mut self, source: &Source, import: &StmtImportFrom, module: &mut Module) -> Eval<()> {
        if import.names.iter().all(|alias| alias.name.id.as_str() == "read_base" && alias.asname.is_none()) {
            return Ok(());
        }
        import.names.iter().for_each(|alias| forget_alias(alias, module));
        let from = import.module.as_ref().map_or("", |m| m.id.as_str());
        let way_out = "write the value itself, or import a base config under `with read_base():`";
        self.scope(source, module).refuse(import, format!("from {from} import ... is not read: {way_out}"))
    }

    /// `with read_base(): from configs._base_.models.internlm2_7B import *`
    fn read_base(&mut self, source: &Source, with: &StmtWith, module: &mut Module) {
        let is_read_base = |expr: &Expr| {
            expr.as_call_expr().is_some_and(|call| {
                call.arguments.is_empty() && call.func.as_name_expr().is_some_and(|f| f.id.as_str() == "read_base")
            })
        };
        let refuse =
            |at: &dyn HasRange, message: &str| Problem { place: source.place(at.at()), message: message.into() };
        match &with.items[..] {
            [item] if !with.is_async && item.optional_vars.is_none() && is_read_base(&item.context_expr) => {}
            _ => {
                self.problems
                    .push(refuse(with, "with is only read as `with read_base():`, around imports of base configs"));
                return;
            }
        }
        for statement in &with.body {
            match statement {
                Stmt::ImportFrom(import) => self.base(source, import, module),
                Stmt::Pass(_) => {}
                other => self.problems.push(refuse(other, "only `from ... import *` can stand under read_base()")),
            }
        }
    }

    fn base(&mut self, source: &Source, import: &StmtImportFrom, module: &mut Module) {
        let place = source.place(import.range());
        let mut refuse = |message: String| self.problems.push(Problem { place: place.clone(), message });
        let dotted = import.module.as_ref().map_or("", |m| m.id.as_str());
        let shown = format!("{}{dotted}", ".".repeat(import.level.min(8) as usize));
        if self.stack.len() > MOST_IMPORTS_DEEP || self.files >= MOST_FILES {
            return refuse(format!("{shown}: more than {MOST_IMPORTS_DEEP} files deep, or {MOST_FILES} in all"));
        }
        let candidates = candidates(self.stack.last().expect("a file is under way"), dotted, import.level);
        let found = candidates.iter().find_map(|path| match (self.read)(path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => None,
            other => Some((path, other)),
        });
        let (path, bytes) = match found {
            None => {
                let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
                return refuse(format!("{shown} is not there; tried {}", tried.join(", ")));
            }
            Some((path, Err(e))) => return refuse(format!("{shown}: {} cannot be read: {e}", path.display())),
            Some((path, Ok(bytes))) => (path, bytes),
        };
        if self.stack.iter().any(|under_way| normal(under_way) == normal(path)) {
            return refuse(format!("{shown} imports itself, through {}", path.display()));
        }
        let (path, failed) = (path.clone(), self.problems.len());
        let base = self.file(&path, &bytes);
        for alias in &import.names {
            let name = alias.name.id.as_str();
            if name == "*" {
                let public = base.names.iter().filter(|(name, _)| !name.starts_with('_'));
                module.names.extend(public.map(|(name, node)| (name.clone(), node.clone())));
                module.used.extend(base.used.iter().cloned());
            } else if let Some(node) = base.names.get(name) {
                let to = alias.asname.as_ref().unwrap_or(&alias.name);
                module.names.insert(to.id.to_string(), node.clone());
            } else {
                forget_alias(alias, module);
                if self.problems.len() == failed {
                    let message = format!("{} does not define {name}", path.display());
                    self.problems.push(Problem { place: place.clone(), message });
                }
            }
        }
    }
}

/// A statement or an expression.
trait HasRange {
    fn at(&self) -> ruff_text_size::TextRange;
}
impl<T: Ranged> HasRange for T {
    fn at(&self) -> ruff_text_size::TextRange {
        self.range()
    }
}

/// Where a module may be: beside the roots above the importing file, or for leading dots relative to it.
fn candidates(importing: &Path, dotted: &str, level: u32) -> Vec<PathBuf> {
    let mut file: PathBuf = dotted.split('.').collect();
    file.set_extension("py");
    let folder = importing.parent().unwrap_or(Path::new(""));
    let up = |n: usize| normal(&folder.join(vec![".."; n].join("/")).join(&file));
    if level > 0 {
        return vec![up((level as usize - 1).min(MOST_FOLDERS_UP))];
    }
    let mut out: Vec<PathBuf> = folder.ancestors().map(|root| root.join(&file)).collect();
    if importing.is_relative() {
        out.extend((1..=MOST_FOLDERS_UP).map(|n| Path::new(&vec![".."; n].join("/")).join(&file)));
    }
    out
}

/// Without `.` and `a/..`, so that a file has one name.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// What the names would have been is unknown: who reads them is not reported again.
fn forget(target: &Expr, module: &mut Module) {
    match target {
        Expr::Name(name) => {
            module.names.insert(name.id.to_string(), None);
        }
        Expr::Tuple(targets) => targets.elts.iter().for_each(|target| forget(target, module)),
        Expr::List(targets) => targets.elts.iter().for_each(|target| forget(target, module)),
        _ => {}
    }
}

fn forget_alias(alias: &Alias, module: &mut Module) {
    module.names.insert(alias.asname.as_ref().unwrap_or(&alias.name).id.to_string(), None);
}

/// What is refused, in words.
fn construct(statement: &Stmt) -> &'static str {
    match statement {
        Stmt::FunctionDef(_) => "a function",
        Stmt::ClassDef(_) => "a class",
        Stmt::If(_) => "an if statement (write `a if test else b`)",
        Stmt::For(_) | Stmt::While(_) | Stmt::Break(_) | Stmt::Continue(_) => "a loop",
        Stmt::Try(_) | Stmt::Raise(_) | Stmt::Assert(_) => "an exception",
        Stmt::Match(_) => "a match statement",
        Stmt::Delete(_) => "del",
        Stmt::Return(_) => "return",
        Stmt::TypeAlias(_) => "a type",
        Stmt::Global(_) | Stmt::Nonlocal(_) => "global or nonlocal",
        Stmt::IpyEscapeCommand(_) => "an IPython command",
        Stmt::Assign(_)
        | Stmt::AugAssign(_)
        | Stmt::AnnAssign(_)
        | Stmt::With(_)
        | Stmt::Import(_)
        | Stmt::ImportFrom(_)
        | Stmt::Expr(_)
        | Stmt::Pass(_) => unreachable!("evaluated above"),
    }
}
