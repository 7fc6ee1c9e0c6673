(* Normal form of expressions in tests and examples: parentheses, spacing, type annotations and the spelling of constants
   ([1.] and [1.0], [0x10] and [16]) make no difference.  Pure; nothing is evaluated. *)

open Parsetree

type form =
  | Integer of string  (* decimal, with its suffix *)
  | Float of float
  | Text of string  (* a string literal's content *)
  | Character of string  (* as OCaml writes it *)
  | Construct of string * form list  (* also tuples (","), list cells ("::") and polymorphic variants ("`A") *)
  | Array of form list
  | Record of (string * form) list  (* by label *)
  | Name of string
  | Apply of form * (string * form) list  (* label, argument *)
  | Opaque of string * string list  (* anything else: its text, and its free names *)

let path lid =
  match Longident.flatten lid with
  | "Stdlib" :: (_ :: _ as rest) -> String.concat "." rest
  | names -> String.concat "." names
  | exception _ -> "?"

let last_name lid = match lid with Longident.Lident name | Ldot (_, name) -> name | Lapply _ -> "?"
let collapse text = String.concat " " (List.filter (( <> ) "") (String.split_on_char ' ' text))

let printed expression =
  let blank = function '\n' | '\t' | '\r' -> ' ' | char -> char in
  collapse (String.map blank (Format.asprintf "%a" Pprintast.expression expression))

let rec without_parentheses text =
  let length = String.length text in
  if length > 2 && text.[0] = '(' && text.[length - 1] = ')' then without_parentheses (String.sub text 1 (length - 2))
  else text

(* Constants are represented differently by each compiler version, but printed alike. *)
let constant expression =
  let text = without_parentheses (String.trim (Format.asprintf "%a" Pprintast.expression expression)) in
  let number text =
    let suffix = text.[String.length text - 1] in
    let hexadecimal = String.contains text 'x' || String.contains text 'X' in
    let has_exponent = (not hexadecimal) && String.contains (String.lowercase_ascii text) 'e' in
    if String.contains text '.' || has_exponent || String.contains text 'p' then
      Option.map (fun value -> Float (value +. 0.)) (float_of_string_opt text)
    else
      match suffix with
      | 'l' | 'L' | 'n' ->
          let digits = String.sub text 0 (String.length text - 1) in
          Option.map (fun value -> Integer (Printf.sprintf "%Ld%c" value suffix)) (Int64.of_string_opt digits)
      | _ -> Option.map (fun value -> Integer (string_of_int value)) (int_of_string_opt text)
  in
  let quoted text =
    match (text.[0], String.index_opt text '|') with
    | '"', _ -> Option.map (fun content -> Text content) (try Some (Scanf.sscanf text "%S%!" Fun.id) with _ -> None)
    | '{', Some bar -> Some (Text (String.sub text (bar + 1) (String.length text - (2 * (bar + 1)))))
    | '\'', _ -> Some (Character text)
    | _ -> number text
  in
  match if text = "" then None else quoted text with Some form -> form | None -> Opaque (text, [])

let pattern_names pattern =
  let names = ref [] in
  let default = Ast_iterator.default_iterator in
  let pat iterator pattern =
    (match pattern.ppat_desc with
    | Ppat_var { txt; _ } | Ppat_alias (_, { txt; _ }) -> names := txt :: !names
    | _ -> ());
    default.pat iterator pattern
  in
  let iterator = { default with pat } in
  iterator.pat iterator pattern;
  !names

(* Names used in an expression but not bound by any pattern in it. *)
let free_names expression =
  let used = ref [] and bound = ref [] in
  let default = Ast_iterator.default_iterator in
  let expr iterator expression =
    (match expression.pexp_desc with Pexp_ident { txt; _ } -> used := path txt :: !used | _ -> ());
    default.expr iterator expression
  and pat _ pattern = bound := pattern_names pattern @ !bound in
  let iterator = { default with expr; pat } in
  iterator.expr iterator expression;
  List.filter (fun name -> not (List.mem name !bound)) !used

let label : Asttypes.arg_label -> string = function
  | Nolabel -> ""
  | Labelled name -> "~" ^ name
  | Optional name -> "?" ^ name

let flattened = function
  | Apply (Apply (head, first), rest) -> Apply (head, first @ rest)
  | form -> form

(* [known] returns the form of a name that stands for a constant. *)
let rec of_expression ?(known = fun _ -> None) expression =
  let form = of_expression ~known in
  match expression.pexp_desc with
  | Pexp_constant _ -> constant expression
  | Pexp_ident { txt; _ } -> named ~known (path txt)
  | Pexp_constraint (inner, _) | Pexp_coerce (inner, _, _) -> form inner
  | Pexp_tuple parts -> Construct (",", List.map form parts)
  | Pexp_construct ({ txt; _ }, None) -> Construct (last_name txt, [])
  | Pexp_construct ({ txt; _ }, Some { pexp_desc = Pexp_tuple parts; _ }) ->
      Construct (last_name txt, List.map form parts)
  | Pexp_construct ({ txt; _ }, Some argument) -> Construct (last_name txt, [ form argument ])
  | Pexp_variant (name, argument) -> Construct ("`" ^ name, List.map form (Option.to_list argument))
  | Pexp_array parts -> Array (List.map form parts)
  | Pexp_record (fields, None) ->
      Record (List.sort compare (List.map (fun ({ Asttypes.txt; _ }, field) -> (last_name txt, form field)) fields))
  | Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident "@@"; _ }; _ }, [ (_, head); (_, argument) ]) ->
      flattened (Apply (form head, [ ("", form argument) ]))
  | Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident "|>"; _ }; _ }, [ (_, argument); (_, head) ]) ->
      flattened (Apply (form head, [ ("", form argument) ]))
  | Pexp_apply (head, arguments) -> (
      let arguments = List.map (fun (name, argument) -> (label name, form argument)) arguments in
      match (form head, arguments) with
      | Name ("~-" | "~-."), [ ("", Integer digits) ] -> Integer (negated digits)
      | Name ("~-" | "~-."), [ ("", Float value) ] -> Float (0. -. value)
      | Name ("~+" | "~+."), [ ("", ((Integer _ | Float _) as number)) ] -> number
      | head, arguments -> flattened (Apply (head, arguments)))
  | _ -> Opaque (printed expression, free_names expression)

and negated digits =
  if digits = "0" then "0"
  else if digits.[0] = '-' then String.sub digits 1 (String.length digits - 1)
  else "-" ^ digits

and named ~known name =
  match (known name, name) with
  | Some form, _ -> form
  | None, ("max_int" | "Int.max_int") -> Integer (string_of_int max_int)
  | None, ("min_int" | "Int.min_int") -> Integer (string_of_int min_int)
  | None, ("infinity" | "Float.infinity") -> Float infinity
  | None, ("neg_infinity" | "Float.neg_infinity") -> Float neg_infinity
  | None, ("nan" | "Float.nan" | "Float.quiet_nan") -> Float nan
  | None, "Float.abs" -> Name "abs_float"
  | None, _ -> Name name

let is_word name = match name.[0] with 'a' .. 'z' | 'A' .. 'Z' | '_' | '`' -> true | _ -> false

let is_infix name =
  List.mem name [ "mod"; "land"; "lor"; "lxor"; "lsl"; "lsr"; "asr" ]
  || String.contains "=<>@^|&+-*/$%:" name.[0]

let rec to_string form =
  let joined between parts = String.concat between (List.map to_string parts) in
  match form with
  | Integer digits -> if digits.[0] = '-' then "(" ^ digits ^ ")" else digits
  | Float value -> float_text value
  | Text content -> Printf.sprintf "%S" content
  | Character text | Opaque (text, _) -> text
  | Name name -> name
  | Construct ("::", [ _; _ ]) when elements form <> None -> "[" ^ joined "; " (Option.get (elements form)) ^ "]"
  | Construct (",", parts) -> "(" ^ joined ", " parts ^ ")"
  | Construct ("::", [ head; tail ]) -> "(" ^ to_string head ^ " :: " ^ to_string tail ^ ")"
  | Construct (name, []) -> name
  | Construct (name, parts) -> "(" ^ name ^ " (" ^ joined ", " parts ^ "))"
  | Array parts -> "[|" ^ joined "; " parts ^ "|]"
  | Record fields ->
      "{" ^ String.concat "; " (List.map (fun (name, field) -> name ^ " = " ^ to_string field) fields) ^ "}"
  | Apply (Name operator, [ ("", left); ("", right) ]) when is_infix operator ->
      "(" ^ to_string left ^ " " ^ operator ^ " " ^ to_string right ^ ")"
  | Apply (head, arguments) ->
      let argument (label, form) = if label = "" then to_string form else label ^ ":" ^ to_string form in
      "(" ^ String.concat " " (head_text head :: List.map argument arguments) ^ ")"

and head_text = function
  | Name name when name <> "" && not (is_word name) -> "( " ^ name ^ " )"
  | head -> to_string head

and float_text value =
  let short = Printf.sprintf "%.12g" value in
  let text = if float_of_string short = value || Float.is_nan value then short else Printf.sprintf "%.17g" value in
  let text = if Float.is_integer value && not (String.contains text 'e') then text ^ "." else text in
  match Float.classify_float value with
  | FP_nan -> "nan"
  | FP_infinite -> if value > 0. then "infinity" else "neg_infinity"
  | _ -> if value < 0. then "(" ^ text ^ ")" else text

and elements = function
  | Construct ("[]", []) -> Some []
  | Construct ("::", [ head; tail ]) -> Option.map (List.cons head) (elements tail)
  | _ -> None

let rec is_constant = function
  | Integer _ | Float _ | Text _ | Character _ -> true
  | Construct (_, parts) | Array parts -> List.for_all is_constant parts
  | Record fields -> List.for_all (fun (_, field) -> is_constant field) fields
  | Name _ | Apply _ | Opaque _ -> false

let rec mentions_nan = function
  | Float value -> Float.is_nan value
  | Construct (_, parts) | Array parts -> List.exists mentions_nan parts
  | Record fields -> List.exists (fun (_, field) -> mentions_nan field) fields
  | _ -> false

let rec is_immutable = function
  | Array _ | Record _ -> false
  | Construct (_, parts) -> List.for_all is_immutable parts
  | form -> is_constant form

(* True if two constants cannot be equal; nan is not handled here. *)
let rec differ left right =
  match (left, right) with
  | Float first, Float second -> (not (Float.is_nan first || Float.is_nan second)) && first <> second
  | Construct (first, parts), Construct (second, others) -> first <> second || differ_in parts others
  | Array parts, Array others -> differ_in parts others
  | Record fields, Record others ->
      List.exists
        (fun (name, field) ->
          match List.assoc_opt name others with Some other -> differ field other | None -> false)
        fields
  | (Integer _ | Text _ | Character _), _ | _, (Integer _ | Text _ | Character _) -> left <> right
  | _ -> true

and differ_in parts others = List.length parts <> List.length others || List.exists2 differ parts others

(* Free names of a form, without constructors. *)
let rec names = function
  | Name name -> [ name ]
  | Opaque (_, free) -> free
  | Construct (_, parts) | Array parts -> List.concat_map names parts
  | Record fields -> List.concat_map (fun (_, field) -> names field) fields
  | Apply (head, arguments) -> names head @ List.concat_map (fun (_, argument) -> names argument) arguments
  | Integer _ | Float _ | Text _ | Character _ -> []
