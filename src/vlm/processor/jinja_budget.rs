//! Bounds on the memory that a template's values take.
//!
//! The engine bounds a template's steps, but one step can double a text. So a template is parsed
//! and written again with a filter behind every expression that makes a new value, which charges
//! the value's size to the budget of the rendering; text that the template writes is charged too.

use std::{cell::Cell, fmt::Write};

use minijinja::{
    Environment, Error, ErrorKind, State,
    machinery::{
        WhitespaceConfig,
        ast::{BinOpKind, Call, CallArg, CompareOpKind, Expr, Macro, Stmt, UnaryOpKind},
        parse,
    },
    value::{Rest, Value, ValueKind},
};

use super::jinja::too_long;

/// Bytes that a rendering may make, intermediate values included.
const BUDGET: usize = 64 << 20;

/// Name of the filter that charges a value.
const CHARGE: &str = "_charged";

thread_local! {
    /// What is left to the rendering on this thread.
    static LEFT: Cell<usize> = const { Cell::new(BUDGET) };
}

/// Begins a rendering.
pub(super) fn refill() {
    LEFT.set(BUDGET);
}

/// Takes `bytes` from the budget.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    LEFT.set(LEFT.get().checked_sub(bytes).ok_or_else(too_long)?);
    Ok(())
}

fn charge_value(value: &Value, depth: usize) -> Result<(), Error> {
    charge(size_of::<Value>() + value.as_str().map_or(0, str::len))?;
    if !matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    ) {
        return Ok(());
    }
    if depth == 0 {
        return Err(too_long());
    }
    for item in value.try_iter()? {
        if value.kind() == ValueKind::Map {
            charge_value(&value.get_item(&item)?, depth - 1)?;
        }
        charge_value(&item, depth - 1)?;
    }
    Ok(())
}

/// Adds the filter that charges values.
pub(super) fn add_filter(env: &mut Environment<'static>) {
    env.add_filter(CHARGE, |value: Value| -> Result<Value, Error> {
        charge_value(&value, 64)?;
        Ok(value)
    });
}

/// Charges, before it is made, the result of a filter or method that can multiply its input.
pub(super) fn charge_product(name: &str, value: &Value, args: &[Value]) -> Result<(), Error> {
    let len = |value: &Value| value.as_str().map_or(1, str::len);
    let number = |value: &Value| match value.as_usize() {
        Some(number) => number,
        None => keyword_number(value),
    };
    let bytes = match name {
        "replace" => {
            let old = args.first().map_or(1, len).max(1);
            (len(value) / old + 1).saturating_mul(args.get(1).map_or(1, len))
        }
        "join" => {
            let (items, separators) = match (value.len(), args.first()) {
                (_, Some(list)) if value.as_str().is_some() && list.as_str().is_none() => {
                    (list.len(), len(value))
                }
                (items, separator) => (items, separator.map_or(0, len)),
            };
            items.unwrap_or_default().saturating_mul(separators)
        }
        "indent" => {
            let lines = value
                .as_str()
                .map_or(1, |text| text.matches('\n').count() + 1);
            lines.saturating_mul(args.iter().map(number).max().unwrap_or_default())
        }
        "format" => digits(value.as_str().unwrap_or_default()),
        _ => return Ok(()),
    };
    charge(bytes)
}

/// Largest number among keyword arguments, which are a map behind the others.
fn keyword_number(value: &Value) -> usize {
    let named = (value.kind() == ValueKind::Map)
        .then(|| value.try_iter().ok())
        .flatten();
    let number = |name: Value| value.get_item(&name).ok()?.as_usize();
    named
        .into_iter()
        .flatten()
        .filter_map(number)
        .max()
        .unwrap_or_default()
}

/// Largest number written in a format.
fn digits(format: &str) -> usize {
    let numbers = format.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter(|number| !number.is_empty());
    numbers
        .map(|number| number.parse().unwrap_or(usize::MAX))
        .max()
        .unwrap_or_default()
}

/// Replaces the filters that can multiply their input.
pub(super) fn guard_filters(env: &mut Environment<'static>) {
    for name in ["replace", "join", "indent", "format"] {
        let plain = Environment::new();
        env.add_filter(
            name,
            move |_: &State<'_, '_>, value: Value, args: Rest<Value>| {
                charge_product(name, &value, &args)?;
                let all: Vec<Value> = std::iter::once(value).chain(args.0).collect();
                plain.empty_state().apply_filter(name, &all)
            },
        );
    }
}

/// Writes a template again, with its values charged.
///
/// # Errors
/// When the template is invalid or inherits from another.
pub(super) fn with_charges(source: &str) -> Result<String, Error> {
    let white_space = WhitespaceConfig {
        trim_blocks: true,
        lstrip_blocks: true,
        ..WhitespaceConfig::default()
    };
    let parsed = parse(source, "chat", Default::default(), white_space)?;
    let mut writer = Writer(String::with_capacity(2 * source.len()));
    writer.statement(&parsed)?;
    Ok(writer.0)
}

struct Writer(String);

impl Writer {
    fn body(&mut self, statements: &[Stmt<'_>]) -> Result<(), Error> {
        statements.iter().try_for_each(|each| self.statement(each))
    }

    fn tag(&mut self, parts: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{{% {parts} %}}");
    }

    fn statement(&mut self, statement: &Stmt<'_>) -> Result<(), Error> {
        match statement {
            Stmt::Template(template) => self.body(&template.children)?,
            Stmt::EmitExpr(emit) => {
                let expr = expression(&emit.expr)?;
                let _ = write!(self.0, "{{{{ {expr} }}}}");
            }
            Stmt::EmitRaw(text) => {
                let _ = write!(self.0, "{{{{ {} }}}}", literal(text.raw));
            }
            Stmt::ForLoop(each) => {
                let filter = match &each.filter_expr {
                    Some(filter) => format!(" if {}", expression(filter)?),
                    None => String::new(),
                };
                let recursive = if each.recursive { " recursive" } else { "" };
                let (name, iter) = (target(&each.target)?, expression(&each.iter)?);
                self.tag(format_args!("for {name} in {iter}{filter}{recursive}"));
                self.body(&each.body)?;
                if !each.else_body.is_empty() {
                    self.tag(format_args!("else"));
                    self.body(&each.else_body)?;
                }
                self.tag(format_args!("endfor"));
            }
            Stmt::IfCond(condition) => {
                self.tag(format_args!("if {}", expression(&condition.expr)?));
                self.body(&condition.true_body)?;
                if !condition.false_body.is_empty() {
                    self.tag(format_args!("else"));
                    self.body(&condition.false_body)?;
                }
                self.tag(format_args!("endif"));
            }
            Stmt::WithBlock(with) => {
                let pair = |(name, value): &(Expr<'_>, Expr<'_>)| {
                    Ok(format!("{}={}", target(name)?, expression(value)?))
                };
                let pairs: Vec<_> = with
                    .assignments
                    .iter()
                    .map(pair)
                    .collect::<Result<_, Error>>()?;
                self.tag(format_args!("with {}", pairs.join(", ")));
                self.body(&with.body)?;
                self.tag(format_args!("endwith"));
            }
            Stmt::Set(set) => {
                let (name, value) = (target(&set.target)?, expression(&set.expr)?);
                self.tag(format_args!("set {name} = {value}"));
            }
            Stmt::SetBlock(set) => {
                let filter = match &set.filter {
                    Some(filter) => format!(" | {}", filters(filter)?),
                    None => String::new(),
                };
                self.tag(format_args!("set {}{filter}", expression(&set.target)?));
                self.body(&set.body)?;
                self.tag(format_args!("endset"));
            }
            Stmt::FilterBlock(block) => {
                self.tag(format_args!("filter {}", filters(&block.filter)?));
                self.body(&block.body)?;
                self.tag(format_args!("endfilter"));
            }
            Stmt::Macro(declared) => {
                self.tag(format_args!(
                    "macro {}({})",
                    declared.name,
                    parameters(declared)?
                ));
                self.body(&declared.body)?;
                self.tag(format_args!("endmacro"));
            }
            Stmt::CallBlock(block) => {
                let parameters = parameters(&block.macro_decl)?;
                self.tag(format_args!("call({parameters}) {}", call(&block.call)?));
                self.body(&block.macro_decl.body)?;
                self.tag(format_args!("endcall"));
            }
            Stmt::Continue(_) => self.tag(format_args!("continue")),
            Stmt::Break(_) => self.tag(format_args!("break")),
            Stmt::Do(statement) => self.tag(format_args!("do {}", call(&statement.call)?)),
            Stmt::AutoEscape(_)
            | Stmt::Block(_)
            | Stmt::Import(_)
            | Stmt::FromImport(_)
            | Stmt::Extends(_)
            | Stmt::Include(_) => return Err(unknown("blocks, imports and escapes")),
        }
        Ok(())
    }
}

fn unknown(what: &str) -> Error {
    Error::new(
        ErrorKind::SyntaxError,
        format!("chat templates have no {what}"),
    )
}

/// Text as a string of Jinja.
fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn constant(value: &Value) -> Result<String, Error> {
    Ok(match (value.as_str(), value.kind()) {
        (Some(text), _) => literal(text),
        (None, ValueKind::None) => "none".to_owned(),
        (None, ValueKind::Bool) => value.is_true().to_string(),
        (None, ValueKind::Number) => value.to_string(),
        _ => return Err(unknown("such constants")),
    })
}

fn parameters(declared: &Macro<'_>) -> Result<String, Error> {
    let required = declared.args.len().saturating_sub(declared.defaults.len());
    let defaults = (0..required)
        .map(|_| None)
        .chain(declared.defaults.iter().map(Some));
    let parameter = |(arg, default): (&Expr<'_>, Option<&Expr<'_>>)| {
        Ok(match default {
            Some(default) => format!("{}={}", expression(arg)?, expression(default)?),
            None => expression(arg)?,
        })
    };
    let all: Vec<_> = declared
        .args
        .iter()
        .zip(defaults)
        .map(parameter)
        .collect::<Result<_, Error>>()?;
    Ok(all.join(", "))
}

fn arguments(args: &[CallArg<'_>]) -> Result<String, Error> {
    let argument = |arg: &CallArg<'_>| {
        Ok(match arg {
            CallArg::Pos(value) => expression(value)?,
            CallArg::Kwarg(name, value) => format!("{name}={}", expression(value)?),
            CallArg::PosSplat(value) => format!("*{}", expression(value)?),
            CallArg::KwargSplat(value) => format!("**{}", expression(value)?),
        })
    };
    let all: Vec<_> = args.iter().map(argument).collect::<Result<_, Error>>()?;
    Ok(all.join(", "))
}

fn call(call: &Call<'_>) -> Result<String, Error> {
    Ok(format!(
        "{}({})",
        expression(&call.expr)?,
        arguments(&call.args)?
    ))
}

/// Filters of a block, in order.
fn filters(expr: &Expr<'_>) -> Result<String, Error> {
    let Expr::Filter(filter) = expr else {
        return Err(unknown("such filters"));
    };
    let this = format!("{}({}) | {CHARGE}", filter.name, arguments(&filter.args)?);
    Ok(match &filter.expr {
        Some(before) => format!("{} | {this}", filters(before)?),
        None => this,
    })
}

/// Names that are assigned to.
fn target(expr: &Expr<'_>) -> Result<String, Error> {
    Ok(match expr {
        Expr::List(list) => {
            let names: Vec<_> = list.items.iter().map(target).collect::<Result<_, _>>()?;
            format!("({})", names.join(", "))
        }
        _ => expression(expr)?,
    })
}

fn optional(expr: &Option<Expr<'_>>) -> Result<String, Error> {
    expr.as_ref().map_or_else(|| Ok(String::new()), expression)
}

fn expression(expr: &Expr<'_>) -> Result<String, Error> {
    Ok(match expr {
        Expr::Var(variable) => variable.id.to_owned(),
        Expr::Const(found) => constant(&found.value)?,
        Expr::Slice(slice) => {
            let (start, stop) = (optional(&slice.start)?, optional(&slice.stop)?);
            let step = match &slice.step {
                Some(step) => format!(":{}", expression(step)?),
                None => String::new(),
            };
            format!("{}[{start}:{stop}{step}]", expression(&slice.expr)?)
        }
        Expr::UnaryOp(unary) => {
            let op = match unary.op {
                UnaryOpKind::Not => "not",
                UnaryOpKind::Neg => "-",
            };
            format!("({op} {})", expression(&unary.expr)?)
        }
        Expr::BinOp(binary) => {
            let (left, right) = (expression(&binary.left)?, expression(&binary.right)?);
            let (op, makes) = operator(binary.op);
            match (binary.op, makes) {
                // Charged before too, the product of constants is not made at load.
                (BinOpKind::Mul, _) => {
                    format!("((({left} | {CHARGE}) * {right}) | {CHARGE})")
                }
                (_, true) => format!("(({left} {op} {right}) | {CHARGE})"),
                (_, false) => format!("({left} {op} {right})"),
            }
        }
        Expr::Compare(compare) => {
            let mut text = format!("({}", expression(&compare.expr)?);
            for op in &compare.ops {
                text += &format!(" {} {}", comparison(op.op), expression(&op.expr)?);
            }
            text + ")"
        }
        Expr::IfExpr(choice) => {
            let (yes, test) = (
                expression(&choice.true_expr)?,
                expression(&choice.test_expr)?,
            );
            match &choice.false_expr {
                Some(no) => format!("({yes} if {test} else {})", expression(no)?),
                None => format!("({yes} if {test})"),
            }
        }
        Expr::Filter(filter) => {
            let (value, args) = (optional(&filter.expr)?, arguments(&filter.args)?);
            format!("({value} | {}({args}) | {CHARGE})", filter.name)
        }
        Expr::Test(test) => {
            let args = match test.args.is_empty() {
                true => String::new(),
                false => format!("({})", arguments(&test.args)?),
            };
            format!("({} is {}{args})", expression(&test.expr)?, test.name)
        }
        Expr::GetAttr(get) => format!("{}.{}", expression(&get.expr)?, get.name),
        Expr::GetItem(get) => {
            format!(
                "{}[{}]",
                expression(&get.expr)?,
                expression(&get.subscript_expr)?
            )
        }
        Expr::Call(found) => match &found.expr {
            // Their values are no text.
            Expr::Var(name) if matches!(name.id, "namespace" | "range") => call(found)?,
            _ => format!("({} | {CHARGE})", call(found)?),
        },
        Expr::List(list) => {
            let items: Vec<_> = list
                .items
                .iter()
                .map(expression)
                .collect::<Result<_, _>>()?;
            format!("([{}] | {CHARGE})", items.join(", "))
        }
        Expr::Map(map) => {
            let pair = |(key, value): (&Expr<'_>, &Expr<'_>)| {
                Ok(format!("{}: {}", expression(key)?, expression(value)?))
            };
            let pairs: Vec<_> = map
                .keys
                .iter()
                .zip(&map.values)
                .map(pair)
                .collect::<Result<_, Error>>()?;
            // A space, lest a brace ends the tag.
            format!("({{ {} }} | {CHARGE})", pairs.join(", "))
        }
    })
}

/// Text of an operator, and whether it makes a new value.
fn operator(op: BinOpKind) -> (&'static str, bool) {
    match op {
        BinOpKind::Add => ("+", true),
        BinOpKind::Concat => ("~", true),
        BinOpKind::Mul => ("*", true),
        BinOpKind::Eq => ("==", false),
        BinOpKind::Ne => ("!=", false),
        BinOpKind::Lt => ("<", false),
        BinOpKind::Lte => ("<=", false),
        BinOpKind::Gt => (">", false),
        BinOpKind::Gte => (">=", false),
        BinOpKind::ScAnd => ("and", false),
        BinOpKind::ScOr => ("or", false),
        BinOpKind::Sub => ("-", false),
        BinOpKind::Div => ("/", false),
        BinOpKind::FloorDiv => ("//", false),
        BinOpKind::Rem => ("%", false),
        BinOpKind::Pow => ("**", false),
        BinOpKind::In => ("in", false),
    }
}

fn comparison(op: CompareOpKind) -> &'static str {
    match op {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_charges_keeps_what_a_template_means() {
        let source = "{% set a, b = 1, [2, 'x\"\\\\\n'] %}{%- for k in b if k -%}\n {{ a + 2 * 3 }}\
                      {% else %}none{% endfor %}{{ {'k': -a}.k if not b else b[::-1] | join(',') }}\
                      {{ a is defined and 1 < 2 <= 3 }}\
                      {% with c = 5 %}{{ c ** 2 % 7 }}{% endwith %}\
                      {% macro f(x, y=2) %}{{ x ~ y }}{{ caller() }}{% endmacro %}\
                      {% call f(1) %}!{% endcall %}{% filter upper | trim %} up {% endfilter %}\
                      {% set d | upper %}d{% endset %}{{ d }}";
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        let plain = env.render_str(source, ()).unwrap();
        add_filter(&mut env);
        refill();
        let charged = with_charges(source).unwrap();
        assert_eq!(env.render_str(&charged, ()).unwrap(), plain, "{charged}");
        assert!(charged.contains(CHARGE));
    }
}
