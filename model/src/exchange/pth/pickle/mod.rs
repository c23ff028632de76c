//! Parser of the pickles of `torch.save`. Executes nothing.
//!
//! A pickle is a program for a stack machine. This one can only build plain values and descriptions
//! of tensors; of a few classes that stand beside tensors (options, paths, arrays) it knows the name
//! alone. Any other global than those of [`Global::find`] is an error. Objects are in one list and
//! refer to each other by index, so nothing recurses, however deep the nesting. The number of objects
//! is bounded, and nothing is allocated for a length before that many bytes were found.

mod machine;

use std::collections::HashMap;

use anyhow::{Result, ensure};
use rsflow_base::shown::quoted;
use tch::Kind;

/// Maximum length of a pickle in bytes. That of a ResNet-152 with five resolutions and its
/// optimizer has less than one million.
pub const MAX_BYTES: u64 = 1 << 25;

/// Index into the list of objects.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Id(u32);

impl Id {
    fn at(self) -> usize {
        self.0 as usize
    }
}

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
    /// The type code of a numpy dtype.
    Dtype(&'static str),
    /// An `argparse.Namespace`, with the dict of its attributes.
    Namespace(Option<Id>),
    /// What programs write beside their tensors and nobody here asks for: options, paths, arrays.
    Inert,
}

/// A storage, shared by one or several tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Storage {
    key: Id,
    dtype: Kind,
    numel: u64,
}

#[derive(Debug)]
struct View {
    storage: Storage,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// What else it is, such as a negated or conjugated view; `None`: nothing else.
    properties: Option<Id>,
}

/// A tensor of a pickle: a strided view of a storage. Its elements are within the storage, and not
/// more than the storage has.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// The key of the storage.
    pub key: &'a str,
    pub dtype: Kind,
    /// Elements of the storage.
    pub numel: u64,
    /// In elements.
    pub offset: i64,
    pub shape: &'a [i64],
    /// In elements.
    pub strides: &'a [i64],
    /// What else it is, so that its values are not those of its storage.
    pub properties: Option<Value<'a>>,
}

/// The Python globals that a pickle may use.
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
    Namespace,
    /// A class whose objects are passed over.
    Inert,
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("torch", "device") => Global::Device,
            // A dtype among options.
            ("torch", "float32" | "float64" | "float16" | "bfloat16" | "int64" | "uint8")
            | ("datetime", "datetime" | "date" | "timedelta") => Global::Inert,
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
            ("argparse", "Namespace") => Global::Namespace,
            ("collections", "defaultdict" | "Counter")
            | (
                "builtins" | "__builtin__",
                "set" | "frozenset" | "dict" | "list" | "int" | "float",
            )
            | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct")
            | ("numpy", "ndarray")
            | (
                "pathlib" | "pathlib._local",
                "Path" | "PosixPath" | "PurePosixPath" | "WindowsPath" | "PureWindowsPath",
            )
            | (
                "lightning_fabric.utilities.data"
                | "lightning.fabric.utilities.data"
                | "pytorch_lightning.utilities.parsing"
                | "lightning.pytorch.utilities.parsing",
                "AttributeDict",
            ) => Global::Inert,
            _ => return None,
        })
    }

    /// For messages.
    fn name(self) -> &'static str {
        match self {
            Global::OrderedDict => "OrderedDict",
            Global::RebuildTensor => "_rebuild_tensor",
            Global::RebuildParameter => "_rebuild_parameter",
            Global::Size => "torch.Size",
            Global::Device => "torch.device",
            Global::StorageOf(_) => "a storage",
            Global::NumpyScalar => "numpy's scalar",
            Global::NumpyDtype => "numpy.dtype",
            Global::Encode => "encode",
            Global::Namespace => "argparse.Namespace",
            Global::Inert => "a class",
        }
    }
}

/// An unpickled value.
#[derive(Debug)]
pub struct Pickle {
    objects: Vec<Object>,
    root: Id,
}

/// A value inside of a pickle.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    objects: &'a [Object],
    id: Id,
}

impl Pickle {
    /// Parses the pickle at the start of `bytes`. Also returns its length in bytes.
    ///
    /// # Errors
    /// It is truncated, damaged or too large, or uses a global that is not supported. The message
    /// has the byte offset.
    pub fn read(bytes: &[u8]) -> Result<(Self, usize)> {
        let (objects, root, length) = machine::run(bytes)?;
        Ok((Pickle { objects, root }, length))
    }

    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    /// The dtype and the number of elements of every storage, by key.
    ///
    /// # Errors
    /// A key with two dtypes or sizes.
    pub fn storages(&self) -> Result<HashMap<&str, (Kind, u64)>> {
        let mut all = HashMap::new();
        for object in &self.objects {
            if let Object::Storage(storage) = object {
                let key = self.value(storage.key).text().unwrap_or_default();
                let this = (storage.dtype, storage.numel);
                ensure!(
                    *all.entry(key).or_insert(this) == this,
                    "the storage {} has two dtypes or sizes in the pickle",
                    quoted(key)
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
        self.objects.get(self.id.at()).unwrap_or(&Object::None)
    }

    fn at(self, id: Id) -> Self {
        Value { id, ..self }
    }

    pub fn text(self) -> Option<&'a str> {
        match self.object() {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(self) -> Option<i128> {
        match self.object() {
            Object::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub fn bool(self) -> Option<bool> {
        match self.object() {
            Object::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn number(self) -> Option<f64> {
        match self.object() {
            Object::Float(float) => Some(*float),
            Object::Int(int) => Some(*int as f64),
            _ => None,
        }
    }

    /// The items of a list or a tuple.
    pub fn items(self) -> Option<impl Iterator<Item = Value<'a>>> {
        match self.object() {
            Object::List(items) => Some(items.iter().map(move |&id| self.at(id))),
            _ => None,
        }
    }

    /// The entries of a dict, in the order of insertion.
    pub fn entries(self) -> Option<impl Iterator<Item = (Value<'a>, Value<'a>)>> {
        match self.object() {
            Object::Dict(entries) => {
                let pair = move |&(key, value): &(Id, Id)| (self.at(key), self.at(value));
                Some(entries.iter().map(pair))
            }
            _ => None,
        }
    }

    /// The value of `key` in a dict.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let mut found = self.entries()?.filter(|(k, _)| k.text() == Some(key));
        found.next().map(|(_, value)| value)
    }

    /// The value of an attribute of an `argparse.Namespace`.
    pub fn attribute(self, name: &str) -> Option<Value<'a>> {
        match self.object() {
            Object::Namespace(attributes) => self.at((*attributes)?).get(name),
            _ => None,
        }
    }

    pub fn tensor(self) -> Option<TensorRef<'a>> {
        match self.object() {
            Object::Tensor(view) => Some(TensorRef {
                key: self.at(view.storage.key).text()?,
                dtype: view.storage.dtype,
                numel: view.storage.numel,
                offset: view.offset,
                shape: &view.shape,
                strides: &view.strides,
                properties: view.properties.map(|id| self.at(id)),
            }),
            _ => None,
        }
    }
}

impl View {
    /// One past its last element, or its number of elements if that is more (with a stride of 0).
    /// `None` on overflow.
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
