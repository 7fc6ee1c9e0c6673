(* Rewrites the problem's tests in the syntax tree so that every assert counts on its own.

   A *step* is one statement of the tests: [step 3 (fun () -> ...)] runs it, catches its exceptions, and can skip it if it
   ended an earlier process.  [assert e] becomes [check 2 (fun () -> e)].  All these names contain a space, so no source text
   can spell them, and a solution can neither call nor shadow them. *)

open Parsetree
open Ast_helper

let std = "Std "
let step_name = "step "
let check_name = "check "
let check_through_name = "check through "
let failure_name = "failure "

type plan = {
  structure : structure;
  owners : int list;  (* per assert, in order: the step that holds it, 0 if none does *)
  num_steps : int;
}

let located text = Location.mknoloc text
let ident name = Exp.ident (located (Longident.Lident name))
let std_ident name = Exp.ident (located (Longident.Ldot (Longident.Lident std, name)))
let number value = Exp.constant (Const.int value)
let nothing = Pat.any ()
let thunk body = Compat.lambda nothing body
let call name arguments = Exp.apply (ident name) (List.map (fun argument -> (Asttypes.Nolabel, argument)) arguments)

let is_false expression =
  match expression.pexp_desc with Pexp_construct ({ txt = Longident.Lident "false"; _ }, None) -> true | _ -> false

type state = { mutable owners_so_far : int list; mutable steps : int; mutable owner : int; mutable inside_try : bool }

(* The number of an assert; negative if no step holds it, since only the assert itself then knows when it begins and ends.
   *)
let next_assert state =
  state.owners_so_far <- state.owner :: state.owners_so_far;
  let index = List.length state.owners_so_far in
  if state.owner = 0 then -index else index

let rec is_exception_pattern pattern =
  match pattern.ppat_desc with
  | Ppat_exception _ -> true
  | Ppat_or (left, right) -> is_exception_pattern left || is_exception_pattern right
  | _ -> false

(* Below a [try] the tests may expect the exception of the asserted expression: it propagates, and counts only if nothing
   catches it. *)
let rewrite_asserts state =
  let default = Ast_mapper.default_mapper in
  let shielded work =
    let before = state.inside_try in
    state.inside_try <- true;
    Fun.protect ~finally:(fun () -> state.inside_try <- before) work
  in
  let expr mapper expression =
    match expression.pexp_desc with
    | Pexp_assert condition when is_false condition ->
        let failure = call failure_name [ number (next_assert state) ] in
        Exp.apply ~loc:expression.pexp_loc (std_ident "raise") [ (Asttypes.Nolabel, failure) ]
    | Pexp_assert condition ->
        let index = next_assert state in
        let name = if state.inside_try then check_through_name else check_name in
        Exp.apply ~loc:expression.pexp_loc (ident name)
          [ (Nolabel, number index); (Nolabel, thunk (mapper.Ast_mapper.expr mapper condition)) ]
    | Pexp_try (body, cases) ->
        let body = shielded (fun () -> mapper.expr mapper body) in
        { expression with pexp_desc = Pexp_try (body, mapper.cases mapper cases) }
    | Pexp_match (body, cases) when List.exists (fun case -> is_exception_pattern case.pc_lhs) cases ->
        let body = shielded (fun () -> mapper.expr mapper body) in
        { expression with pexp_desc = Pexp_match (body, mapper.cases mapper cases) }
    | _ -> default.expr mapper expression
  in
  { default with expr }

let as_step state build =
  let outer = state.owner in
  state.steps <- state.steps + 1;
  let id = state.steps in
  state.owner <- id;
  let body = build () in
  state.owner <- outer;
  call step_name [ number id; thunk body ]

let unit = Exp.construct (located (Longident.Lident "()")) None

let is_unit expression =
  match expression.pexp_desc with Pexp_construct ({ txt = Longident.Lident "()"; _ }, None) -> true | _ -> false

(* [a; let x = e in b; c]: every statement becomes a step, and the bindings between them stay as they are.  A statement
   whose value is ignored may have any type: OCaml only warns about it. *)
let rec statements state mapper ~discarded expression =
  let open Ast_mapper in
  match expression.pexp_desc with
  | Pexp_sequence (first, rest) ->
      let first = statements state mapper ~discarded:true first in
      { expression with pexp_desc = Pexp_sequence (first, statements state mapper ~discarded rest) }
  | Pexp_let (recursive, bindings, body) ->
      let bindings = List.map (mapper.value_binding mapper) bindings in
      { expression with pexp_desc = Pexp_let (recursive, bindings, statements state mapper ~discarded body) }
  | Pexp_open (opened, body) ->
      let opened = mapper.open_declaration mapper opened in
      { expression with pexp_desc = Pexp_open (opened, statements state mapper ~discarded body) }
  | Pexp_letmodule (name, definition, body) ->
      let definition = mapper.module_expr mapper definition in
      { expression with pexp_desc = Pexp_letmodule (name, definition, statements state mapper ~discarded body) }
  | _ when is_unit expression -> expression
  | _ ->
      let body () =
        let body = mapper.expr mapper expression in
        if discarded then Exp.sequence body unit else body
      in
      as_step state body

let rec ends_in_assert expression =
  match expression.pexp_desc with
  | Pexp_assert condition -> not (is_false condition)
  | Pexp_sequence (_, rest) | Pexp_let (_, _, rest) | Pexp_open (_, rest) | Pexp_letmodule (_, _, rest) ->
      ends_in_assert rest
  | _ -> false

let rec is_unit_pattern pattern =
  match pattern.ppat_desc with
  | Ppat_construct ({ txt = Longident.Lident "()"; _ }, None) -> true
  | Ppat_constraint (inner, _) -> is_unit_pattern inner
  | _ -> false

(* The step around all statements keeps an exception between two of them from ending the run. *)
let item state mapper ~discarded expression =
  as_step state (fun () -> statements state mapper ~discarded expression)

let binding state mapper value_binding =
  let expression = value_binding.pvb_expr in
  match value_binding.pvb_pat.ppat_desc with
  | Ppat_any -> { value_binding with pvb_expr = item state mapper ~discarded:true expression }
  | _ when is_unit_pattern value_binding.pvb_pat || ends_in_assert expression ->
      { value_binding with pvb_expr = item state mapper ~discarded:false expression }
  | _ -> mapper.Ast_mapper.value_binding mapper value_binding

let structure_item state mapper structure_item =
  match structure_item.pstr_desc with
  | Pstr_value (recursive, bindings) ->
      { structure_item with pstr_desc = Pstr_value (recursive, List.map (binding state mapper) bindings) }
  | Pstr_eval (expression, attributes) ->
      { structure_item with pstr_desc = Pstr_eval (item state mapper ~discarded:true expression, attributes) }
  | _ -> mapper.Ast_mapper.structure_item mapper structure_item

let tests structure =
  let state = { owners_so_far = []; steps = 0; owner = 0; inside_try = false } in
  let mapper = rewrite_asserts state in
  let structure = List.map (structure_item state mapper) structure in
  { structure; owners = List.rev state.owners_so_far; num_steps = state.steps }
