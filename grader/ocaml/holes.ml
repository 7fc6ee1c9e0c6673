(* Cuts: changes to a syntax tree that free one node from its context and keep the rest.

   A node is identified by physical equality: [apply] always starts from the parsed tree. *)

open Parsetree
open Ast_helper

type cut =
  | Forget of expression  (* not typed at all *)
  | Loosen of expression  (* typed itself, but compatible with any context *)
  | Dissolve of expression  (* only its operands are typed *)
  | Any_pattern of pattern  (* matches anything; its variables have any type *)
  | Loosen_pattern of pattern  (* the same, but its variables have the types that the pattern gives them *)
  | Any_type of core_type
  | Opaque_type of core_type  (* in a declaration, which needs a real type *)
  | Assume of string  (* a value of any type under this name *)
  | Assume_path of Longident.t

let same first second =
  match (first, second) with
  | Loosen a, Loosen b | Dissolve a, Dissolve b | Forget a, Forget b -> a == b
  | Any_pattern a, Any_pattern b | Loosen_pattern a, Loosen_pattern b -> a == b
  | Any_type a, Any_type b | Opaque_type a, Opaque_type b -> a == b
  | Assume a, Assume b -> a = b
  | Assume_path a, Assume_path b -> a = b
  | _ -> false

(* A hash: equal for equal cuts. *)
let number = function
  | Forget e | Loosen e | Dissolve e -> e.pexp_loc.loc_start.pos_cnum
  | Any_pattern p | Loosen_pattern p -> p.ppat_loc.loc_start.pos_cnum
  | Any_type t | Opaque_type t -> t.ptyp_loc.loc_start.pos_cnum
  | Assume _ | Assume_path _ -> 0

let value_name = "any value "
let type_name = "?unknown?"
let located = Location.mknoloc
let hole loc = Exp.ident ~loc (located (Longident.Lident value_name))
let assume name = Str.value Nonrecursive [ Vb.mk (Pat.var (located name)) (hole Location.none) ]

(* The environment in which cut trees are typed. *)
let extend environment =
  let unit = Exp.construct (located (Longident.Lident "()")) None in
  let items =
    [
      Str.type_ Recursive [ Type.mk (located type_name) ];
      Str.value Nonrecursive [ Vb.mk (Pat.var (located value_name)) unit ];
    ]
  in
  let _, _, typed = Compat.type_structure environment items in
  let _, description = Env.find_value_by_name (Lident value_name) typed in
  Env.add_value (Ident.create_local value_name) { description with val_type = Btype.newgenvar () } typed

(* The children of a node. *)
type below = { exprs : expression list; pats : pattern list; types : core_type list; cases : case list }

let collect visit =
  let exprs = ref [] and pats = ref [] and types = ref [] and cases = ref [] in
  let add list _ node = list := node :: !list in
  let default = Ast_iterator.default_iterator in
  let attribute _ _ = () in
  visit { default with expr = add exprs; pat = add pats; typ = add types; case = add cases; attribute };
  { exprs = List.rev !exprs; pats = List.rev !pats; types = List.rev !types; cases = List.rev !cases }

let below expression = collect (fun shallow -> Ast_iterator.default_iterator.expr shallow expression)
let below_binding binding = collect (fun shallow -> Ast_iterator.default_iterator.value_binding shallow binding)

(* Runs [e] and has any type that is expected, polymorphic where it is bound. *)
let keeping operands (e : expression) =
  let keep operand rest =
    Exp.let_ Nonrecursive [ Vb.mk (Pat.any ()) (Compat.lambda (Pat.any ()) operand) ] rest
  in
  with_default_loc e.pexp_loc (fun () -> List.fold_right keep operands (hole e.pexp_loc))

let loosened e = keeping [ e ] e

(* True if an expression's operands make sense without it. *)
let can_dissolve (e : expression) =
  let { pats; cases; _ } = below e in
  match e.pexp_desc with
  | Pexp_letmodule _ | Pexp_open _ | Pexp_object _ | Pexp_newtype _ | Pexp_letop _ | Pexp_letexception _ -> false
  | Pexp_pack _ -> false
  | _ -> pats = [] && cases = []

let dissolved e = keeping (below e).exprs e

let variables pattern =
  let names = ref [] in
  let default = Ast_iterator.default_iterator in
  let pat iterator (p : pattern) =
    (match p.ppat_desc with
    | Ppat_var { txt; _ } | Ppat_alias (_, { txt; _ }) -> if not (List.mem txt !names) then names := txt :: !names
    | _ -> ());
    default.pat iterator p
  in
  let iterator = { default with pat } in
  iterator.pat iterator pattern;
  List.rev !names

let inside pattern root =
  let found = ref false in
  let default = Ast_iterator.default_iterator in
  let pat iterator p = if p == pattern then found := true else default.pat iterator p in
  let iterator = { default with pat } in
  iterator.pat iterator root;
  !found

(* A case whose pattern has a hole: its body is placed below bindings of the names. *)
let with_names cuts lhs body =
  let bind_again body = function
    | Any_pattern pattern when inside pattern lhs ->
        let bind name rest = Exp.let_ Nonrecursive [ Vb.mk (Pat.var (located name)) (hole Location.none) ] rest in
        List.fold_right bind (variables pattern) body
    | Loosen_pattern pattern when inside pattern lhs ->
        Exp.match_ ~loc:body.pexp_loc (hole Location.none) [ Exp.case pattern body ]
    | _ -> body
  in
  List.fold_left bind_again body cuts

let apply cuts item =
  let default = Ast_mapper.default_mapper in
  let is_cut_pattern p = function Any_pattern q | Loosen_pattern q -> p == q | _ -> false in
  let has_patterns = List.exists (function Any_pattern _ | Loosen_pattern _ -> true | _ -> false) cuts in
  let has_paths = List.exists (function Assume_path _ -> true | _ -> false) cuts in
  let expr mapper e =
    if List.exists (function Forget f -> f == e | _ -> false) cuts then hole e.pexp_loc
    else if List.exists (function Dissolve d -> d == e | _ -> false) cuts then dissolved (default.expr mapper e)
    else
      let mapped = default.expr mapper e in
      if List.exists (function Loosen l -> l == e | _ -> false) cuts then loosened mapped
      else
        match mapped.pexp_desc with
        | Pexp_ident { txt; _ } when has_paths && List.mem (Assume_path txt) cuts -> hole e.pexp_loc
        | _ -> mapped
  in
  let pat mapper p =
    if has_patterns && List.exists (is_cut_pattern p) cuts then Pat.any ~loc:p.ppat_loc () else default.pat mapper p
  in
  let typ mapper t =
    let replacement = function
      | Any_type cut when cut == t -> Some (Typ.any ~loc:t.ptyp_loc ())
      | Opaque_type cut when cut == t -> Some (Typ.constr ~loc:t.ptyp_loc (located (Longident.Lident type_name)) [])
      | _ -> None
    in
    match List.find_map replacement cuts with Some any -> any | None -> default.typ mapper t
  in
  let case mapper c =
    let mapped = default.case mapper c in
    if not has_patterns then mapped
    else
      let around = with_names cuts c.pc_lhs in
      { mapped with pc_guard = Option.map around mapped.pc_guard; pc_rhs = around mapped.pc_rhs }
  in
  let attribute _ attribute = attribute in
  let mapper = { default with expr; pat; typ; case; attribute } in
  let names = List.filter_map (function Assume name -> Some name | _ -> None) cuts in
  List.map assume (List.sort_uniq compare names) @ [ mapper.structure_item mapper item ]
