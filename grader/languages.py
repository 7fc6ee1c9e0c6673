"""Detection of programs in other languages and of plain prose, which OCaml may parse by accident. Pure.

It applies only to code that OCaml refuses: a program that OCaml accepts counts as OCaml.
"""

import re

from grader import lexical
from grader.lexical import Kind

# Language -> syntax that OCaml does not have, or that no line of OCaml starts with.
_SYNTAX: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (language, re.compile(pattern, re.MULTILINE))
    for language, pattern in (
        ("Python", r"^[ \t]*(?:async[ ]+)?def[ ]+[\w.]+"),
        ("Python", r"^(?:from[ ]+[\w.]+[ ]+)?import[ ]+[\w.*{\"(]"),
        ("Python", r"^[ \t]*class[ ]++\w++[^\n]*:[ \t]*$"),
        ("Python", r"^[ \t]*(?:(?:elif|if|while|for|with|except)[ (][^\n]*|else|try|finally|except)[ ]?:[ \t]*(?:#[^\n]*)?$"),
        ("Python", r"\blambda(?:[ ]+\w+(?:[ ]*,[ ]*\w+)*)?[ ]*:|^[ \t]*print\(|\belif\b|\bis[ ]+(?:not[ ]+)?None\b"),
        ("Haskell", r"^[a-z][\w']*[ ]*::[ ]*[^\n]*(?:->|\bIO\b)"),
        ("Haskell", r"^module[ ]++[\w.]++[^\n]*\bwhere\b"),
        ("Haskell", r"^[ \t]*\|[ ]*otherwise[ ]*="),
        ("Haskell", r"^data[ ]++[A-Z]\w*+[^\n=]*+=|^[^\n=]*+=[^\n`]*+`(?:mod|div|rem|quot|elem|seq)`|^[ \t]*where[ \t]*$"),
        ("F#", r"\[<\w+>\]"),
        ("F#", r"\bprintfn?n[ ]+\""),
        ("F#", r"^open[ ]+(?:System|Microsoft|FSharp)\b"),
        ("F#", r"\blet[ ]+(?:mutable|inline)\b"),
        ("F#", r"\buse![ ]"),
        ("Standard ML", r"^[ \t]*fun[ ]+\w[\w']*[ ]*\([^\n]*\)[^\n>]*=(?!>)"),
        ("Standard ML", r"^[ \t]*fun[ ]+[\w']+(?:[ ]+[\w']+)+[ ]*=(?![>=])"),
        ("Standard ML", r"^val[ ]++(?:rec[ ]++)?\w++[^\n:=]*+=|\bfn[ ]+\w+[ ]*=>"),
        ("Rust", r"^[ \t]*(?:pub(?:\([^)\n]*\))?[ ]+)?(?:unsafe[ ]+|const[ ]+)?fn[ ]+\w+[ ]*[(<]"),
        ("Rust", r"\blet[ ]+mut\b"),
        ("Rust", r"\bprintln!"),
        ("Rust", r"^[ \t]*use[ ]+\w+::"),
        ("JavaScript", r"^[ \t]*(?:(?:export|local|async|recursive|default)[ ]+)*function\b[ *]*(?:[a-z_$][\w$]*[ ]*[(<=]|\()"),
        ("JavaScript", r"^[ \t]*(?:export[ ]+)?(?:const|var)[ ]+[\w$]+[ ]*[:=]|===|!==|\bconsole\.log\b"),
        ("JavaScript", r"=[ ]*(?:async[ ]*)?\([\w\s,:?]*\)[ ]*(?::[^=\n]*)?=>"),
        ("C", r"^[ \t]*#[ ]*(?:include|define|ifdef|ifndef|pragma)\b"),
        ("C", r"\bstd::\w"),
        ("C", r"^[ \t]*using[ ]+\w"),
        ("C", r"^[ \t]*namespace[ ]+\w"),
        ("C", r"^[ \t]*(?:(?:public|private|protected|static|final|extern|inline|const|unsigned)[ ]+)+\w"),
        (
            "C",
            r"^[ \t]*+[A-Za-z_][\w<>\[\]:]*+[ *&]++\w++[ ]?\([ ]*+(?:const[ ]+)?"
            r"(?:void[ ]*\)|[A-Za-z_][\w<>\[\]:]*[ *&]+\w+[ ]*[,)])[^\n]*(?:\{|=>|\)\n\{)",
        ),
        ("C", r"^[ \t]*(?://|/\*)"),
        ("C", r"^[ \t}]*(?:else[ ]+)?(?:if|while|for|switch|catch)[ ]?\([^\n]*\)[ ]*\{[ \t]*$|^[ \t]*\}[ ]*else\b"),
        ("Go", r"^[ \t]*func[ ]+(?:\([^)\n]*\)[ ]*)?\w+[ ]*\(|^package[ ]+\w+[ \t]*$"),
        ("Lisp", r"^[ \t]*\((?:define|defun|defn|defmacro|setq|ns)[ ]*[ (\[]"),
        ("Coq", r"^[ \t]*(?:Fixpoint|Definition|Inductive|Theorem|Lemma)[ ]+\w+"),
        ("Erlang", r"^[a-z]\w*\([^\n]*\)[ ]*(?:when\b[^\n]*)?->|[ \t]:-(?:[ \t]|$)"),
        ("Elixir", r"^[ \t]*(?:defmodule|defp?)[ ]+\w"),
        ("R", r"<-[ ]*function[ ]*\("),
        ("Perl", r"^[ \t]*sub[ ]+\w+[ ]*\{|\bmy[ ]+[$@%(]|<\?php|^[ \t]*\$\w+[ ]*="),
        ("a shell script", r"\A\s*+#!(?![^\n]*ocaml)|^[ \t]*\w+\(\)[ ]*\{|\$\(\(|^[ \t]*echo[ ]+[\"$]"),
        ("Pascal", r"^[ \t]*(?:procedure[ ]+\w+[ ]*[(;]|program[ ]+\w+[ ]*;|proc[ ]+\w+\()|\bend\.[ \t]*$"),
        ("JSON", r"\A\s*+(?:\[\s*+)?\{\s*+\"\"\s*+:"),
        ("SQL", r"^[ \t]*(?:SELECT|INSERT|CREATE)[ ]++[^\n]*\b(?:FROM|INTO|TABLE)\b"),
    )
)  # fmt: skip
_RETURN = re.compile(r"^[ \t]*return\b|\b(?:then|else)[ ]+return\b", re.MULTILINE)
_DEFINES_RETURN = re.compile(r"\blet[ ]+(?:rec[ ]+)?return\b|>>=|\blet[*+]|\band[*+]|\bopen[ ]+Lwt\b")
_EQUATION = r"(?![^\n=]*\blet\b){name}['\w]*(?:[ ]*:[ ][^=\n]*->|(?:[ ]++[\w'()\[\]:_,]++|\([^()\n]*+\))++[ ]*+=(?!=))"
_DEFINITION = re.compile(r"^[ \t]*(?:let|type|module|exception|open)\b", re.MULTILINE)
_FENCE_LANGUAGES = frozenset(
    {"python", "py", "python3", "haskell", "hs", "fsharp", "f#", "fs", "sml", "rust", "rs", "javascript", "js",
     "jsx", "typescript", "ts", "tsx", "c", "h", "cpp", "c++", "cc", "java", "kotlin", "kt", "go", "golang",
     "scala", "swift", "ruby", "rb", "lua", "perl", "pl", "php", "elixir", "ex", "erlang", "erl", "clojure", "clj",
     "scheme", "racket", "lisp", "elisp", "julia", "jl", "r", "matlab", "octave", "coq", "lean", "agda", "idris",
     "elm", "purescript", "prolog", "sql", "bash", "sh", "shell", "zsh", "powershell", "zig", "nim", "dart",
     "csharp", "cs", "c#", "pascal", "fortran", "groovy", "haxe", "d", "ada", "cobol", "vb", "html", "xml", "json",
     "yaml", "toml", "diff", "latex", "tex"}
)  # fmt: skip
_PROSE_LINE = re.compile(r"[A-Za-z\"'(*-][\w ,.;:!?'\"()/-]*\Z")
_PROSE_WORDS = frozenset(
    {"the", "is", "are", "was", "i", "you", "we", "it", "this", "that", "cannot", "can", "should", "an", "my",
     "your", "which", "answer", "sorry", "use", "because", "help", "will", "here", "there"}
)  # fmt: skip


def other_language(code: str, *, fence_language: str, name: str) -> str:
    """Name the language of a text that OCaml refuses, such as "Python" or "prose"; empty if it may be meant as OCaml.

    Args:
        code: the part of an answer that was extracted as code.
        fence_language: the language that its fence names, in lower case.
        name: the name that the problem asks for.
    """
    if fence_language in _FENCE_LANGUAGES:
        return fence_language
    masked = _masked(code)
    for language, syntax in _SYNTAX:
        if syntax.search(masked):
            return language
    if _RETURN.search(masked) and not _DEFINES_RETURN.search(masked):
        return "a language with return"
    if _DEFINITION.search(masked):
        return ""
    if name and re.match(_EQUATION.format(name=re.escape(name)), masked.lstrip()):
        return "equations"
    return "prose" if _is_prose(masked) else ""


def _masked(code: str) -> str:
    """The code with its comments and the contents of its literals removed."""
    parts = []
    for span in lexical.spans(code):
        part = code[span.start : span.end]
        # An unclosed literal is kept: its quote may be an apostrophe of another language.
        keeps = span.kind is Kind.CODE or not span.closed
        parts.append(part if keeps else " " if span.kind is Kind.COMMENT else '""')
    return "".join(parts)


def _is_prose(masked: str) -> bool:
    lines = [line.strip() for line in masked.split("\n") if line.strip()]
    words = re.findall(r"[a-z]+", masked.lower())
    is_all_prose = bool(lines) and all(_PROSE_LINE.match(line) for line in lines)
    return is_all_prose and len(words) >= 3 and sum(word in _PROSE_WORDS for word in words) >= 2
