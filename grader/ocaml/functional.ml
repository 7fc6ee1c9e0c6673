(* Comparisons of functions in a problem's tests: [assert (f 1 = f 1)] always raises if [f 1] is a function. *)

open Typedtree

(* Identified by the compiler's primitive, whatever its name in the tests. *)
let is_comparison = function
  | "%equal" | "%notequal" | "%lessthan" | "%greaterthan" | "%lessequal" | "%greaterequal" | "%compare" -> true
  | _ -> false

let rec holds_function environment ty =
  match Compat.desc_of (Ctype.expand_head environment ty) with
  | Types.Tarrow _ -> true
  | Tconstr (path, parameters, _) when List.mem (Path.last path) [ "list"; "option"; "array"; "ref"; "result" ] ->
      List.exists (holds_function environment) parameters
  | Ttuple parts -> List.exists (holds_function environment) parts
  | _ -> false

(* Locations where the tests compare functions. *)
let comparisons (structure : structure) =
  let found = ref [] in
  let default = Tast_iterator.default_iterator in
  let expr iterator expression =
    (match (expression.exp_desc, Compat.desc_of expression.exp_type) with
    | Texp_ident (_, _, { Types.val_kind = Val_prim { prim_name; _ }; _ }), Types.Tarrow (_, compared, _, _)
      when is_comparison prim_name && holds_function expression.exp_env compared ->
        found := expression.exp_loc :: !found
    | _ -> ());
    default.expr iterator expression
  in
  let iterator = { default with expr } in
  iterator.structure iterator structure;
  List.filter (fun (loc : Location.t) -> loc.loc_start.pos_fname = "tests.ml") (List.rev !found)

(* The same for tests that type-check under a stub of the signature; none if they do not. *)
let compared environment items =
  let check () =
    match Job.reported (fun () -> Job.type_items environment items) with
    | Ok (structure, _, _) -> comparisons structure
    | Error _ -> []
  in
  Hygiene.fresh check
