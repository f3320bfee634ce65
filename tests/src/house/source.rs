//! One file of source, parsed, with its test code set apart.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, ImplItem, Item, Stmt, TraitItem};

use super::Breach;

/// What a file is for; some rules ask less of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Code that ships.
    Shipped,
    /// A file under `tests/` or `benches/`: a crate of its own that only tests.
    Integration,
    /// A module of a shipped crate that its parent declares under `#[cfg(test)]`.
    TestModule,
}

/// One file of source.
pub struct Source {
    /// Where it lies, from the root of the workspace, with `/` between.
    pub path: String,
    /// What it is for.
    pub kind: Kind,
    /// Its text.
    pub text: String,
    /// Its syntax, test code included.
    pub syntax: syn::File,
    /// The tokens that ship; none of a file that is wholly for tests.
    pub(super) shipped: TokenStream,
    /// The tokens of its test code.
    pub(super) tested: TokenStream,
}

impl Source {
    /// Parses a file.
    ///
    /// # Errors
    /// It is not Rust.
    pub fn parse(path: &str, text: &str, kind: Kind) -> Result<Self, Breach> {
        let syntax = syn::parse_file(text).map_err(|error| Breach {
            place: path.to_owned(),
            line: error.span().start().line,
            what: format!("is not Rust: {error}"),
        })?;
        let (shipped, tested) = match kind {
            Kind::Shipped => {
                let mut rest = syntax.clone();
                let mut split = SetApart::default();
                split.visit_file_mut(&mut rest);
                (rest.into_token_stream(), split.tests)
            }
            Kind::Integration | Kind::TestModule => (TokenStream::new(), syntax.to_token_stream()),
        };
        let (path, text) = (path.to_owned(), text.to_owned());
        Ok(Self { path, kind, text, syntax, shipped, tested })
    }

    /// The names of the modules in other files that are declared here under `#[cfg(test)]`.
    #[must_use]
    pub fn test_modules(&self) -> Vec<String> {
        let modules = self.syntax.items.iter().filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() && is_test(&module.attrs) => {
                Some(module.ident.to_string())
            }
            _ => None,
        });
        modules.collect()
    }

    pub(super) fn breach(&self, line: usize, what: impl Into<String>) -> Breach {
        Breach { place: self.path.clone(), line, what: what.into() }
    }
}

/// Whether something is compiled for tests only.
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("test") {
            return true;
        }
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// Takes what is for tests only out of a file, and keeps its tokens.
#[derive(Default)]
struct SetApart {
    tests: TokenStream,
}

impl SetApart {
    fn keep<T: ToTokens>(&mut self, item: &T, attributes: &[Attribute]) -> bool {
        let test = is_test(attributes);
        if test {
            item.to_tokens(&mut self.tests);
        }
        !test
    }
}

impl VisitMut for SetApart {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| self.keep(item, attributes_of(item)));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| self.keep(item, attributes_of(item)));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| match item {
            ImplItem::Fn(function) => self.keep(item, &function.attrs),
            ImplItem::Const(constant) => self.keep(item, &constant.attrs),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_item_trait_mut(&mut self, block: &mut syn::ItemTrait) {
        block.items.retain(|item| match item {
            TraitItem::Fn(function) => self.keep(item, &function.attrs),
            _ => true,
        });
        visit_mut::visit_item_trait_mut(self, block);
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.retain(|statement| match statement {
            Stmt::Item(item) => self.keep(item, attributes_of(item)),
            Stmt::Local(local) => self.keep(statement, &local.attrs),
            _ => true,
        });
        visit_mut::visit_block_mut(self, block);
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_code_is_set_apart_wherever_it_stands() {
        let text = "use a::b;\n#[cfg(test)]\nuse c::d;\nimpl X {\n#[cfg(test)]\nfn e() {}\n\
                    fn f() {\n#[cfg(test)]\nlet g = 1;\n}\n}\n#[cfg(test)]\nmod h;\nmod i {\n\
                    #[test]\nfn j() {}\n}\n";
        let source = Source::parse("x.rs", text, Kind::Shipped).unwrap();
        let (shipped, tested) = (source.shipped.to_string(), source.tested.to_string());
        for name in ["b", "f", "i"] {
            assert!(shipped.split_whitespace().any(|word| word == name), "{name} in {shipped}");
        }
        for name in ["d", "e", "g", "h", "j"] {
            assert!(!shipped.split_whitespace().any(|word| word == name), "{name} in {shipped}");
            assert!(tested.split_whitespace().any(|word| word.contains(name)), "{name}: {tested}");
        }
        assert_eq!(source.test_modules(), ["h"]);
    }

    #[test]
    fn what_is_not_rust_is_said_with_its_line() {
        let breach = Source::parse("x.rs", "fn a() {}\nfn {", Kind::Shipped).err().unwrap();
        assert_eq!((breach.place.as_str(), breach.line), ("x.rs", 2));
    }
}
