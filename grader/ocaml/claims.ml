(* The claim of an assert: that a call has a value.  Pure. *)

open Parsetree
open Forms

type value =
  | Exactly of form
  | About of float * float  (* within this distance *)
  | Unclear  (* [f x <> v], [a || b]: not a single value *)

type claim = { call : form; value : value; by_equality : bool  (* [=], for which nan is unequal to itself *) }

let truth holds = Construct (string_of_bool holds, [])

let as_boolean = function
  | Construct ("true", []) -> Some true
  | Construct ("false", []) -> Some false
  | _ -> None

let is_equality = function
  | "=" | "==" | "String.equal" | "Int.equal" | "Char.equal" | "Bool.equal" | "Float.equal" | "Bytes.equal" -> true
  | _ -> false

let is_comparison name = name = "compare" || List.mem name [ "String.compare"; "Int.compare"; "Float.compare" ]

(* The side that is the call: the one that is not a constant, else the one that names the solution. *)
let oriented ~name ~by_equality left right =
  let mentions form = List.mem name (names form) in
  let claim call value = [ { call; value = Exactly value; by_equality } ] in
  if is_constant right then claim left right
  else if is_constant left then claim right left
  else if mentions right && not (mentions left) then claim right left
  else claim left right

let number = function
  | Integer digits -> float_of_string_opt digits
  | Float value -> Some value
  | _ -> None

let distance ~name left right eps =
  match (number left, number right, number eps) with
  | None, Some value, Some eps -> [ { call = left; value = About (value, eps); by_equality = false } ]
  | Some value, None, Some eps -> [ { call = right; value = About (value, eps); by_equality = false } ]
  | _, _, _ ->
      let call = if List.mem name (names right) && not (List.mem name (names left)) then right else left in
      [ { call; value = Unclear; by_equality = false } ]

let rec of_form ~name ~holds form =
  let unclear call = [ { call; value = Unclear; by_equality = false } ] in
  match form with
  | Apply (Name "&&", [ (_, left); (_, right) ]) when holds -> of_form ~name ~holds left @ of_form ~name ~holds right
  | Apply (Name "||", [ (_, left); (_, right) ]) when not holds ->
      of_form ~name ~holds left @ of_form ~name ~holds right
  | Apply (Name "not", [ (_, inner) ]) -> of_form ~name ~holds:(not holds) inner
  | Apply (Name "=", [ (_, Apply (Name comparison, [ (_, left); (_, right) ])); (_, Integer "0") ])
    when holds && is_comparison comparison ->
      oriented ~name ~by_equality:false left right
  | Apply (Name (("=" | "==" | "<>" | "!=") as operator), [ (_, left); (_, right) ]) -> (
      let equal = holds = (operator = "=" || operator = "==") in
      match (equal, oriented ~name ~by_equality:(operator = "=") left right) with
      | true, claims -> claims
      | false, [ ({ value = Exactly value; _ } as claim) ] when as_boolean value <> None ->
          [ { claim with value = Exactly (truth (as_boolean value = Some false)) } ]
      | false, claims -> List.concat_map (fun claim -> unclear claim.call) claims)
  | Apply (Name equality, [ (_, left); (_, right) ]) when is_equality equality && holds ->
      oriented ~name ~by_equality:false left right
  | Apply
      ( Name ("<" | "<="),
        [
          (_, Apply (Name ("abs_float" | "abs"), [ (_, Apply (Name ("-." | "-"), [ (_, left); (_, right) ])) ])); (_, eps);
        ] )
    when holds ->
      distance ~name left right eps
  | Apply (Name ("&&" | "||"), _) -> unclear form
  | Apply _ | Name _ -> [ { call = form; value = Exactly (truth holds); by_equality = false } ]
  | form when is_constant form -> [ { call = form; value = Exactly (truth holds); by_equality = false } ]
  | form -> unclear form

(* Names that the tests bind once, to a constant that cannot change. *)
let known_constants (items : structure) =
  let bindings = Hashtbl.create 16 and counts = Hashtbl.create 16 in
  let default = Ast_iterator.default_iterator in
  let count name = Hashtbl.replace counts name (1 + Option.value ~default:0 (Hashtbl.find_opt counts name)) in
  let pat iterator pattern =
    (match pattern.ppat_desc with Ppat_var { txt; _ } | Ppat_alias (_, { txt; _ }) -> count txt | _ -> ());
    default.pat iterator pattern
  and value_binding iterator binding =
    (match binding.pvb_pat.ppat_desc with
    | Ppat_var { txt; _ } | Ppat_constraint ({ ppat_desc = Ppat_var { txt; _ }; _ }, _) ->
        let form = of_expression binding.pvb_expr in
        if is_immutable form then Hashtbl.replace bindings txt form
    | _ -> ());
    default.value_binding iterator binding
  in
  let iterator = { default with pat; value_binding } in
  iterator.structure iterator items;
  let known name = if Hashtbl.find_opt counts name = Some 1 then Hashtbl.find_opt bindings name else None in
  (known, fun name -> Hashtbl.mem counts name)

(* Conditions of the tests' asserts, by location. *)
let asserts items =
  let found = ref [] in
  let default = Ast_iterator.default_iterator in
  let expr iterator expression =
    (match expression.pexp_desc with
    | Pexp_assert condition -> found := (expression.pexp_loc, condition) :: !found
    | _ -> ());
    default.expr iterator expression
  in
  let iterator = { default with expr } in
  iterator.structure iterator items;
  !found

(* Expressions that always run, whatever the solution returns. *)
let certain items =
  let rec statements expression =
    match expression.pexp_desc with
    | Pexp_sequence (first, rest) -> statements first @ statements rest
    | Pexp_let (_, bindings, body) -> List.concat_map (fun one -> statements one.pvb_expr) bindings @ statements body
    | Pexp_open (_, body) | Pexp_letmodule (_, _, body) | Pexp_constraint (body, _) -> statements body
    | _ -> [ expression ]
  in
  let of_item item =
    match item.pstr_desc with
    | Pstr_value (_, bindings) -> List.concat_map (fun binding -> statements binding.pvb_expr) bindings
    | Pstr_eval (expression, _) -> statements expression
    | _ -> []
  in
  List.concat_map of_item items

(* True if the tests define their own equality. *)
let rebinds_equality items = snd (known_constants items) "="

let pure_modules =
  [ "List"; "String"; "Array"; "Char"; "Int"; "Float"; "Option"; "Bytes"; "Bool"; "Fun"; "Seq"; "Result" ]

let pure_functions =
  [ "+"; "-"; "*"; "/"; "mod"; "+."; "-."; "*."; "/."; "**"; "~-"; "~-."; "@"; "^"; "not"; "fst"; "snd"; "succ"; "pred";
    "abs"; "min"; "max"; "abs_float"; "sqrt"; "float_of_int"; "float"; "int_of_float"; "truncate"; "string_of_int";
    "int_of_string"; "string_of_float"; "float_of_string"; "string_of_bool"; "int_of_char"; "char_of_int"; "="; "<>"; "<";
    ">"; "<="; ">="; "&&"; "||"; "compare"; "land"; "lor"; "lxor"; "lsl"; "lsr"; "asr"; "ignore"; "floor"; "ceil" ]

(* True if a call means the same in any place: it has arguments other than unit, and uses no name that the tests bind. *)
let is_closed ~given ~bound ~name form =
  let allowed used =
    (not (bound used))
    &&
    match String.index_opt used '.' with
    | Some dot -> List.mem (String.sub used 0 dot) pure_modules
    | None -> used = name || List.mem used pure_functions || given used
  in
  let rec only_unit = function
    | Apply (_, arguments) ->
        List.for_all (fun (_, argument) -> argument = Construct ("()", []) || only_unit argument) arguments
    | Name _ -> true
    | _ -> false
  in
  List.mem name (names form) && List.for_all allowed (names form) && not (only_unit form)

let is_direct ~name claim = match claim.call with Apply (Name head, _) -> head = name | form -> form = Name name

(* True if two claims about the same call cannot both hold. *)
let contradict first second =
  match (first.value, second.value) with
  | Exactly left, Exactly right -> is_constant left && is_constant right && differ left right
  | About (left, eps), About (right, other) -> Float.abs (left -. right) > eps +. other
  | About (value, eps), Exactly (Float exact) | Exactly (Float exact), About (value, eps) ->
      Float.abs (value -. exact) > eps
  | _ -> false
