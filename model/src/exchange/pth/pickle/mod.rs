//! Pickles as `torch.save` writes them, read and never executed.
//!
//! A pickle is a program for a stack machine. Here that machine can build plain values and the
//! descriptions of tensors, nothing else: a name of Python's that is not in [`Global::named`] ends
//! the reading. Objects lie in one list and refer to each other by their place in it, so nothing
//! recurses, whatever the nesting. How many there may be is bounded, and no length is believed
//! before that many bytes are there.

mod machine;

use std::collections::HashMap;

use anyhow::{Result, ensure};
use tch::Kind;

/// The longest pickle that is read, in bytes; that of a ResNet-152 with five resolutions and its
/// optimizer has less than one million.
pub const MAX_BYTES: u64 = 1 << 26;
/// The place of an object in the list of all.
type Id = usize;

#[derive(Debug)]
enum Object {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// A list or a tuple.
    List(Vec<Id>),
    /// In the order in which the entries were added.
    Dict(Vec<(Id, Id)>),
    Storage(Storage),
    Tensor(Box<View>),
    Global(Global),
    /// A type of numpy's: its code.
    Dtype(&'static str),
}

/// The elements that one or several tensors lie in.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Storage {
    key: Id,
    kind: Kind,
    elements: u64,
}

#[derive(Debug)]
struct View {
    storage: Storage,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// A tensor as a pickle describes it: which elements of a storage it has. They are within the
/// storage, and not more than that has.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The storage's name.
    pub key: &'a str,
    /// The type of its elements.
    pub kind: Kind,
    /// The elements of the storage.
    pub elements: u64,
    /// The tensor's first element.
    pub offset: i64,
    /// The tensor's shape.
    pub shape: &'a [i64],
    /// For each dimension how many elements on the next one lies.
    pub strides: &'a [i64],
}

/// The names of Python's that a pickle may use.
#[derive(Clone, Copy, Debug)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Device,
    StorageOf(Kind),
    NumpyScalar,
    NumpyDtype,
    Encode,
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("torch", "device") => Global::Device,
            ("torch", storage) => Global::StorageOf(match storage.strip_suffix("Storage")? {
                "Float" => Kind::Float,
                "Double" => Kind::Double,
                "Half" => Kind::Half,
                "BFloat16" => Kind::BFloat16,
                "Long" => Kind::Int64,
                "Int" => Kind::Int,
                "Short" => Kind::Int16,
                "Char" => Kind::Int8,
                "Byte" => Kind::Uint8,
                "Bool" => Kind::Bool,
                _ => return None,
            }),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
            ("numpy", "dtype") => Global::NumpyDtype,
            ("_codecs", "encode") => Global::Encode,
            _ => return None,
        })
    }
}

/// What a pickle holds.
#[derive(Debug)]
pub struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

/// One of its values.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    objects: &'a [Object],
    id: Id,
}

impl Pickle {
    /// Reads the pickle that `bytes` begin with, and says how long it is.
    ///
    /// # Errors
    /// It is truncated, damaged, too large, or holds something else than tensors and plain values,
    /// which the message names; the message says at which byte.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize)> {
        let (objects, root, length) = machine::run(bytes)?;
        Ok((Pickle { objects, root }, length))
    }

    /// The value that was pickled.
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    /// Every storage that is mentioned, by its name: the type of its elements and their number.
    ///
    /// # Errors
    /// One is mentioned as two different ones.
    pub fn storages(&self) -> Result<HashMap<&str, (Kind, u64)>> {
        let mut all = HashMap::new();
        for object in &self.objects {
            if let Object::Storage(storage) = object {
                let key = self.value(storage.key).text().unwrap_or_default();
                let this = (storage.kind, storage.elements);
                ensure!(
                    *all.entry(key).or_insert(this) == this,
                    "the pickle mentions the storage {key:?} with two types or sizes"
                );
            }
        }
        Ok(all)
    }

    fn value(&self, id: Id) -> Value<'_> {
        Value {
            objects: &self.objects,
            id,
        }
    }
}

impl<'a> Value<'a> {
    fn object(self) -> &'a Object {
        // Ids come from the list itself, from which nothing is removed.
        self.objects.get(self.id).unwrap_or(&Object::None)
    }

    fn other(self, id: Id) -> Self {
        Value { id, ..self }
    }

    /// The text, if it is one.
    pub fn text(self) -> Option<&'a str> {
        match self.object() {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn int(self) -> Option<i128> {
        match self.object() {
            Object::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn bool(self) -> Option<bool> {
        match self.object() {
            Object::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn number(self) -> Option<f64> {
        match self.object() {
            Object::Float(float) => Some(*float),
            Object::Int(int) => Some(*int as f64),
            _ => None,
        }
    }

    /// The items of a list or a tuple, if it is one.
    pub fn items(self) -> Option<impl Iterator<Item = Value<'a>>> {
        match self.object() {
            Object::List(items) => Some(items.iter().map(move |&id| self.other(id))),
            _ => None,
        }
    }

    /// Keys and values of a dict, in their order, if it is one.
    pub fn entries(self) -> Option<impl Iterator<Item = (Value<'a>, Value<'a>)>> {
        match self.object() {
            Object::Dict(entries) => {
                let pair = move |&(key, value): &(Id, Id)| (self.other(key), self.other(value));
                Some(entries.iter().map(pair))
            }
            _ => None,
        }
    }

    /// The value of a dict that has this key, if it is one and has.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let mut found = self.entries()?.filter(|(k, _)| k.text() == Some(key));
        found.next().map(|(_, value)| value)
    }

    /// The tensor, if it is one.
    pub fn tensor(self) -> Option<Described<'a>> {
        match self.object() {
            Object::Tensor(view) => Some(Described {
                key: self.other(view.storage.key).text()?,
                kind: view.storage.kind,
                elements: view.storage.elements,
                offset: view.offset,
                shape: &view.shape,
                strides: &view.strides,
            }),
            _ => None,
        }
    }
}

impl View {
    /// Behind its last element; or the number of its elements, should that be more, as when one
    /// element is repeated. `None` if that is too much to count.
    fn end(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(self.offset.unsigned_abs());
        }
        let (mut last, mut count) = (self.offset, 1_i64);
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
            count = count.checked_mul(size)?;
        }
        Some(last.checked_add(1)?.max(count).unsigned_abs())
    }
}
