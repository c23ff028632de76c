//! The stack machine of pickles, with the opcodes that checkpoints use.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use rsflow_base::shown::Shown as _;

use super::{Global, Id, Object, Storage, Value, View};

/// Maximum number of objects, items of containers and memo entries, together; and depth of the
/// stack. A pickle has one for each byte at most, and none takes more than 64 bytes, so that a
/// short pickle cannot take much memory and a long one not more than this many.
const MAX_CELLS: usize = 1 << 21;
const MAX_DIMENSIONS: usize = 8;
/// Maximum bytes of a number: numpy's scalars have 8, PyTorch's magic number 10.
const MAX_NUMBER_BYTES: usize = 16;

/// Runs the pickle at the start of `bytes`. Returns all objects, the result, and the length of the
/// pickle in bytes.
pub(super) fn run(bytes: &[u8]) -> Result<(Vec<Object>, Id, usize)> {
    let mut machine = Machine {
        bytes,
        at: 0,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        cells: 0,
    };
    loop {
        let at = machine.at;
        let done = machine
            .step()
            .with_context(|| format!("byte {at} of the pickle cannot be read"))?;
        if let Some(root) = done {
            return Ok((machine.objects, root, machine.at));
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// The heights of the stack at the open marks.
    marks: Vec<u32>,
    memo: HashMap<u32, Id>,
    /// Objects, items of containers and memo entries so far.
    cells: usize,
}

impl<'a> Machine<'a> {
    /// Executes one opcode, named as in Python's `pickletools`. Returns the result after STOP.
    fn step(&mut self) -> Result<Option<Id>> {
        let [opcode] = self.read_array()?;
        match opcode {
            // PROTO, FRAME, STOP
            0x80 => {
                let [version] = self.read_array()?;
                ensure!(version <= 5, "unknown pickle version {version}");
            }
            0x95 => {
                let _: [u8; 8] = self.read_array()?;
            }
            b'.' => return Ok(Some(self.pop()?)),
            // MARK, POP, POP_MARK, DUP
            b'(' => {
                ensure!(self.marks.len() < MAX_CELLS, "it is too large");
                self.marks.push(self.stack.len().try_into()?);
            }
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Object::None)?,
            0x88 => self.push(Object::Bool(true))?,
            0x89 => self.push(Object::Bool(false))?,
            // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
            b'J' => {
                let int = i32::from_le_bytes(self.read_array()?);
                self.push(Object::Int(int.into()))?;
            }
            b'K' => {
                let int = u8::from_le_bytes(self.read_array()?);
                self.push(Object::Int(int.into()))?;
            }
            b'M' => {
                let int = u16::from_le_bytes(self.read_array()?);
                self.push(Object::Int(int.into()))?;
            }
            0x8a | 0x8b => {
                let long = self.read_prefixed(if opcode == 0x8a { 1 } else { 4 })?;
                let int = decode_long(long)?;
                self.push(Object::Int(int))?;
            }
            b'G' => {
                let float = f64::from_be_bytes(self.read_array()?);
                self.push(Object::Float(float))?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.push_text(1)?,
            b'X' => self.push_text(4)?,
            0x8d => self.push_text(8)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8
            b'C' => self.push_bytes(1)?,
            b'B' => self.push_bytes(4)?,
            0x8e => self.push_bytes(8)?,
            // EMPTY_LIST, EMPTY_TUPLE, EMPTY_DICT
            b']' | b')' => self.push(Object::List(Vec::new()))?,
            b'}' => self.push(Object::Dict(Vec::new()))?,
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => self.push(Object::Inert)?,
            0x90 => {
                self.pop_to_mark()?;
                self.top()?;
            }
            0x91 => {
                self.pop_to_mark()?;
                self.push(Object::Inert)?;
            }
            // TUPLE, TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let items = self.pop_to_mark()?;
                self.count(items.len())?;
                self.push(Object::List(items))?;
            }
            0x85 => self.push_tuple(1)?,
            0x86 => self.push_tuple(2)?,
            0x87 => self.push_tuple(3)?,
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(&items)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' => {
                let [index] = self.read_array()?;
                self.memoize(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.read_array()?);
                self.memoize(index)?;
            }
            0x94 => self.memoize(self.memo.len().try_into()?)?,
            b'h' => {
                let [index] = self.read_array()?;
                self.push_memo(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.read_array()?);
                self.push_memo(index)?;
            }
            // GLOBAL, INST, STACK_GLOBAL
            b'c' | b'i' => {
                let (module, name) = (self.read_line()?, self.read_line()?);
                let global = find_global(module, name)?;
                ensure!(opcode == b'c', "an instance of {}", shown(module, name));
                self.push(Object::Global(global))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id| {
                    self.value(id)
                        .text()
                        .context("the name of a class is not a string")
                };
                let global = find_global(text(module)?, text(name)?)?;
                self.push(Object::Global(global))?;
            }
            // BINPERSID, REDUCE, NEWOBJ, NEWOBJ_EX, BUILD
            b'Q' => {
                let persistent_id = self.pop()?;
                let storage = self.storage(persistent_id)?;
                self.push(Object::Storage(storage))?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.reduce(function, arguments)?;
            }
            0x81 | 0x92 => {
                // Its arguments; those by name too.
                self.pop()?;
                if opcode == 0x92 {
                    self.pop()?;
                }
                let class = self.pop()?;
                self.new_object(class)?;
            }
            b'b' => {
                let state = self.pop()?;
                self.build(state)?;
            }
            other => bail!("unsupported pickle opcode {other:#04x}"),
        }
        Ok(None)
    }

    fn value(&self, id: Id) -> Value<'_> {
        Value {
            objects: &self.objects,
            id,
        }
    }

    fn read(&mut self, count: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|n| rest.get(..n));
        let taken = taken.with_context(|| {
            format!(
                "it is truncated: {count} more bytes are announced, {} are there",
                rest.len()
            )
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.read(N as u64)?.try_into()?)
    }

    /// Bytes that follow their length, an integer of `width` bytes.
    fn read_prefixed(&mut self, width: usize) -> Result<&'a [u8]> {
        let mut count = [0; 8];
        count[..width].copy_from_slice(self.read(width as u64)?);
        self.read(u64::from_le_bytes(count))
    }

    fn read_line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.context("it is truncated within a name")?];
        self.at += line.len() + 1;
        Ok(std::str::from_utf8(line)?)
    }

    fn push(&mut self, object: Object) -> Result<()> {
        self.count(1)?;
        let id = Id(self.objects.len().try_into()?);
        self.objects.push(object);
        self.push_id(id)
    }

    fn count(&mut self, cells: usize) -> Result<()> {
        self.cells += cells;
        ensure!(self.cells <= MAX_CELLS, "it is too large");
        Ok(())
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        ensure!(self.stack.len() < MAX_CELLS, "it is too large");
        self.stack.push(id);
        Ok(())
    }

    fn push_text(&mut self, width: usize) -> Result<()> {
        let text = std::str::from_utf8(self.read_prefixed(width)?)?;
        self.push(Object::Text(text.to_owned()))
    }

    fn push_bytes(&mut self, width: usize) -> Result<()> {
        let bytes = self.read_prefixed(width)?;
        self.push(Object::Bytes(bytes.to_vec()))
    }

    fn push_tuple(&mut self, count: usize) -> Result<()> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.count(count)?;
        self.push(Object::List(items))
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.get(floor as usize..).and_then(<[Id]>::last);
        top.copied().context("pickle stack underflow")
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("pickle stack underflow")?;
        Ok(self.stack.split_off(mark as usize))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        self.count(items.len())?;
        let list = self.top()?;
        match &mut self.objects[list.at()] {
            Object::List(list) => list.extend(items),
            Object::Inert => {}
            _ => bail!("appends to a value that is not a list"),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<()> {
        self.count(items.len())?;
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.objects[dict.at()] {
            Object::Inert => {}
            Object::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => bail!("adds entries to a value that is not a dict"),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        self.count(1)?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn push_memo(&mut self, index: u32) -> Result<()> {
        let id = self.memo.get(&index).copied();
        self.push_id(id.context("it gets a memo entry that does not exist")?)
    }

    fn object(&self, id: Id) -> &Object {
        &self.objects[id.at()]
    }

    fn list(&self, id: Id) -> Result<&[Id]> {
        match self.object(id) {
            Object::List(items) => Ok(items),
            _ => bail!("expected a list or a tuple"),
        }
    }

    /// The storage of a persistent id: `("storage", class, key, device, numel)`, in the legacy
    /// format with a sixth item that is None.
    fn storage(&self, persistent_id: Id) -> Result<Storage> {
        let (class, key, numel) = match *self.list(persistent_id)? {
            [tag, class, key, _, numel] if self.value(tag).text() == Some("storage") => {
                (class, key, numel)
            }
            [tag, class, key, _, numel, view]
                if self.value(tag).text() == Some("storage")
                    && matches!(self.object(view), Object::None) =>
            {
                (class, key, numel)
            }
            _ => bail!("a storage has an unknown description"),
        };
        let Object::Global(Global::StorageOf(dtype)) = *self.object(class) else {
            bail!("a storage has an unknown class");
        };
        let numel = self.value(numel).int().and_then(|n| n.try_into().ok());
        self.value(key).text().context("a storage has no key")?;
        Ok(Storage {
            key,
            dtype,
            numel: numel.context("a storage has no size")?,
        })
    }

    /// Calls a global: the opcode REDUCE.
    fn reduce(&mut self, function: Id, arguments: Id) -> Result<()> {
        let Object::Global(function) = *self.object(function) else {
            bail!("calls a non-callable");
        };
        let arguments = self.list(arguments)?;
        let result = match (function, arguments) {
            (Global::Inert, _) => Object::Inert,
            (Global::Namespace, []) => Object::Namespace(None),
            (Global::OrderedDict, []) => Object::Dict(Vec::new()),
            // `_rebuild_tensor_v2` also has whether a gradient is wanted, hooks for it and, if there
            // are any, properties.
            (Global::RebuildTensor, &[storage, offset, shape, strides, ref rest @ ..])
                if rest.len() <= 3 =>
            {
                let mut view = self.rebuild_tensor(storage, offset, shape, strides)?;
                view.properties = rest.get(2).copied().filter(|&of| !self.is_empty(of));
                Object::Tensor(Box::new(view))
            }
            (Global::RebuildParameter, &[same, _, _])
            | (Global::Size, &[same])
            | (Global::Device, &[same, ..]) => return self.push_id(same),
            (Global::Encode, &[text, ..]) => {
                let text = self
                    .value(text)
                    .text()
                    .context("encodes a value that is not a string")?;
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c)));
                match text.len() <= 2 * MAX_NUMBER_BYTES {
                    true => Object::Bytes(bytes.collect::<Result<_, _>>()?),
                    // Those of an array.
                    false => Object::Inert,
                }
            }
            (Global::NumpyDtype, &[code, ..]) => {
                let code = self.value(code).text();
                let known = ["f8", "f4", "i8"].into_iter();
                let known = known.into_iter().find(|&known| code == Some(known));
                known.map_or(Object::Inert, Object::Dtype)
            }
            (Global::NumpyScalar, &[dtype, bytes]) => {
                match (self.object(dtype), self.object(bytes)) {
                    (Object::Inert, _) => Object::Inert,
                    (Object::Dtype(code), Object::Bytes(bytes)) => numpy_scalar(code, bytes)?,
                    _ => bail!("a numpy scalar has an unknown description"),
                }
            }
            (function, arguments) => bail!(
                "{} is called with {} arguments of unknown meaning",
                function.name(),
                arguments.len()
            ),
        };
        self.push(result)
    }

    /// Makes an object without calling anything: the opcodes NEWOBJ and NEWOBJ_EX.
    fn new_object(&mut self, class: Id) -> Result<()> {
        match self.object(class) {
            Object::Global(Global::Inert) => self.push(Object::Inert),
            Object::Global(Global::Namespace) => self.push(Object::Namespace(None)),
            Object::Global(Global::OrderedDict) => self.push(Object::Dict(Vec::new())),
            _ => bail!("makes an object of a value that is no class"),
        }
    }

    /// Whether it is None or a dict without entries.
    fn is_empty(&self, id: Id) -> bool {
        match self.object(id) {
            Object::None => true,
            Object::Dict(entries) => entries.is_empty(),
            _ => false,
        }
    }

    fn rebuild_tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<View> {
        let Object::Storage(storage) = *self.object(storage) else {
            bail!("a tensor has no storage");
        };
        let int = |id: Id| -> Result<i64> {
            let int = self.value(id).int().and_then(|int| i64::try_from(int).ok());
            let int = int.filter(|&int| int >= 0);
            int.context("a tensor's shape, stride or offset is not a non-negative integer")
        };
        let ints = |list: Id| -> Result<Vec<i64>> {
            let list = self.list(list)?;
            ensure!(
                list.len() <= MAX_DIMENSIONS,
                "a tensor has {} dimensions",
                list.len()
            );
            list.iter().map(|&id| int(id)).collect()
        };
        let view = View {
            storage,
            offset: int(offset)?,
            shape: ints(shape)?,
            strides: ints(strides)?,
            properties: None,
        };
        ensure!(
            view.shape.len() == view.strides.len(),
            "a tensor has {} dimensions and {} strides",
            view.shape.len(),
            view.strides.len()
        );
        let end = view.end().filter(|&end| end <= storage.numel);
        ensure!(
            end.is_some(),
            "a tensor of shape {:?} with strides {:?} and offset {} exceeds its storage of {} elements",
            view.shape,
            view.strides,
            view.offset,
            storage.numel
        );
        Ok(view)
    }

    /// Sets the state of an object: the opcode BUILD. Attributes of a dict (PyTorch keeps versions
    /// there) and the details of a numpy dtype are ignored.
    fn build(&mut self, state: Id) -> Result<()> {
        let target = self.top()?;
        match self.object(target) {
            Object::Dict(_) | Object::Inert => Ok(()),
            Object::Namespace(_) => {
                self.objects[target.at()] = Object::Namespace(Some(state));
                Ok(())
            }
            Object::Dtype(_) => {
                let order = self.list(state)?.get(1);
                let order = order.and_then(|&order| self.value(order).text());
                ensure!(
                    matches!(order, Some("<" | "|" | "=")),
                    "a numpy scalar has the byte order {order:?}"
                );
                Ok(())
            }
            _ => bail!("it sets the state of an object that has none"),
        }
    }
}

fn find_global(module: &str, name: &str) -> Result<Global> {
    Global::find(module, name).with_context(|| {
        let class = shown(module, name);
        if module.starts_with("__torch__") {
            return format!(
                "it is a TorchScript archive, which holds the code of {class}. In Python, save \
                 `torch.jit.load(FILE).state_dict()` with `torch.save`"
            );
        }
        if (module, name) == ("torch.storage", "_load_from_bytes") {
            return "`pickle.dump` wrote it; save `model.state_dict()` with `torch.save`".to_owned();
        }
        format!(
            "it holds {class}, which is neither a tensor nor a plain value; nothing of the file was \
             executed. Load it in Python, with `torch.load(FILE, weights_only=False)` if you trust it, \
             and save `model.state_dict()` alone"
        )
    })
}

/// The name of a class, for a message.
fn shown(module: &str, name: &str) -> String {
    format!("{module}.{name}").shown().into_owned()
}

/// A little-endian integer in two's complement, of any number of bytes up to [`MAX_NUMBER_BYTES`].
fn decode_long(bytes: &[u8]) -> Result<i128> {
    ensure!(
        bytes.len() <= MAX_NUMBER_BYTES,
        "a number has {} bytes",
        bytes.len()
    );
    let negative = bytes.last().is_some_and(|&last| last >= 0x80);
    let mut all = [if negative { 0xff } else { 0 }; MAX_NUMBER_BYTES];
    all[..bytes.len()].copy_from_slice(bytes);
    Ok(i128::from_le_bytes(all))
}

fn numpy_scalar(code: &str, bytes: &[u8]) -> Result<Object> {
    Ok(match code {
        "f8" => Object::Float(f64::from_le_bytes(bytes.try_into()?)),
        "f4" => Object::Float(f32::from_le_bytes(bytes.try_into()?).into()),
        _ => Object::Int(i64::from_le_bytes(bytes.try_into()?).into()),
    })
}
