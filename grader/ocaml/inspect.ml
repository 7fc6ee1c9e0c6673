(* Inspects a problem without a completion: which asserts are covered by the statement's examples, and whether some
   implementation of its signature can pass its tests.

   request: "examples" (only the first question) or "everything"; name; statement's definitions; tests; statement and
            signature; number of candidate programs of the signature, these; number of definitions in the statement's prose,
            these; call and value of every example
   answer:  records one after the other, each a tag and its fields:
              "cause" code message        no solution can pass
              "warning" code message
              "assert" text line covered call value direct    in the order of Rewrite.tests; call and value are empty unless the
                                                              assert claims one value of one call, and value also if it is not
                                                              a constant; direct: a call of the problem's function itself *)

open Parsetree
open Forms
open Proofs

(* The asserts in the order in which they are graded. *)
let in_grader_order items =
  let found = Claims.asserts items in
  let by_place (left : Location.t * _) (right : Location.t * _) =
    compare (fst left).loc_start.pos_cnum (fst right).loc_start.pos_cnum
  in
  let numbers = ref [] in
  let default = Ast_iterator.default_iterator in
  let number_of expression = int_of_string_opt (Format.asprintf "%a" Pprintast.expression expression) in
  let note loc = function Some number -> numbers := (number, loc) :: !numbers | None -> () in
  let expr iterator expression =
    (match expression.pexp_desc with
    | Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident called; _ }; _ }, (_, number) :: _)
      when called = Rewrite.check_name || called = Rewrite.check_through_name ->
        note expression.pexp_loc (number_of number)
    | Pexp_apply
        ( _,
          [ (_, { pexp_desc = Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident called; _ }; _ }, [ (_, number) ]); _ }) ]
        )
      when called = Rewrite.failure_name ->
        note expression.pexp_loc (number_of number)
    | _ -> ());
    default.expr iterator expression
  in
  let iterator = { default with expr } in
  iterator.structure iterator (Rewrite.tests items).structure;
  let of_number (_, loc) = List.find_opt (fun (other, _) -> other = loc) found in
  let ordered = List.filter_map of_number (List.sort compare !numbers) in
  if List.length ordered = List.length found then ordered else List.sort by_place found

let inspect_asserts ~name items =
  let known, _ = Claims.known_constants items in
  let certain = Claims.certain items in
  let inspected (loc, source) =
    let condition = of_expression ~known source in
    let is_certain = List.exists (fun one -> one.pexp_loc = loc) certain in
    { loc; condition; source; claims = Claims.of_form ~name ~holds:true condition; is_certain }
  in
  List.map inspected (in_grader_order items)

let describe_fault (fault : Feasible.fault) =
  let place = fault.where.loc_start in
  let line = Printf.sprintf "line %d: " place.pos_lnum in
  match place.pos_fname with
  | _ when fault.where = Location.none -> fault.message
  | "tests.ml" -> line ^ fault.message
  | file -> Filename.remove_extension file ^ ", " ^ line ^ fault.message

let assert_record ~name examples { loc; condition; claims; _ } =
  let shown = claims <> [] && List.for_all (Shown.given_away examples) claims in
  let call, value, direct =
    match claims with
    | [ ({ call; value; _ } as claim) ] ->
        let constant = match value with Exactly value when is_constant value -> to_string value | _ -> "" in
        (to_string call, constant, Claims.is_direct ~name claim)
    | _ -> ("", "", false)
  in
  [ "assert"; to_string condition; string_of_int (line loc); string_of_bool shown; call; value; string_of_bool direct ]

(* Arguments and values of the direct claims, as written in the tests. *)
let calls_of ~name inspected =
  let of_assert one =
    match (one.claims, one.source.pexp_desc) with
    | ( [ ({ value = Exactly value; _ } as claim) ],
        Pexp_apply ({ pexp_desc = Pexp_ident { txt = Lident "="; _ }; _ }, [ (_, left); (_, right) ]) )
      when one.is_certain && is_constant value && Claims.is_direct ~name claim -> (
        let call, value = if of_expression right = value then (left, right) else (right, left) in
        match call.pexp_desc with Pexp_apply (_, arguments) -> [ (List.map snd arguments, value) ] | _ -> [])
    | _ -> []
  in
  List.concat_map of_assert inspected

let has_word text word =
  let is_word = function 'a' .. 'z' | 'A' .. 'Z' | '0' .. '9' | '_' | '\'' -> true | _ -> false in
  let size = String.length word and length = String.length text in
  let edge at = at < 0 || at >= length || not (is_word text.[at]) in
  let rec search from =
    match String.index_from_opt text from word.[0] with
    | Some at when at + size <= length ->
        (String.sub text at size = word && edge (at - 1) && edge (at + size)) || search (at + 1)
    | _ -> false
  in
  size > 0 && search 0

(* Text before the name of a function that the statement wants in addition to the signature's. *)
let speaks_of statement name =
  List.exists (fun before -> has_word statement (before ^ name))
    [ "let "; "let rec "; "and "; "val "; ">>> "; "`"; "["; "function "; "# " ]

let parsed_definitions texts =
  List.concat_map (fun text -> Result.value (Job.parse ~file:"statement.ml" text) ~default:[]) texts

(* The statement's definitions; none if they are broken. *)
let usable environment given =
  let items = parsed_definitions [ given ] in
  if Result.is_ok (Feasible.typed environment items) then items else []

let describe_missing missing =
  String.concat ", " (List.rev_map (fun one -> Feasible.kind_of one ^ " " ^ Feasible.name_of one) missing)

(* Checks that some implementation fits the tests: records, and the definitions that it may use. *)
let feasibility environment ~given ~prose ~signature ~statement items =
  let given = usable environment given in
  let attempt given =
    Feasible.try_given environment ~given ~signature ~tests:items ~mentioned:(has_word statement)
      ~helper:(speaks_of statement)
  in
  let lacking missing =
    let text = describe_missing missing ^ ": the statement does not define it, a solution has to" in
    if missing = [] then [] else warning "needs_definitions" text
  in
  let records = function
    | Feasible.Feasible missing -> lacking missing
    | Unknown -> warning "needs_definitions" "the tests use constructors that the statement only mentions"
    | Bad_signature fault -> cause "signature_does_not_type_check" (describe_fault fault)
    | Bad_tests fault -> cause "tests_do_not_type_check" (describe_fault fault)
  in
  let first = attempt given in
  let described = parsed_definitions prose in
  match first with
  | Feasible [] -> []
  | first when described = [] || Result.is_error (Feasible.typed environment (given @ described)) -> records first
  | first -> (
      match (attempt (given @ described), first) with
      | Feasible missing, _ ->
          lacking missing @ warning "needs_definitions" "the statement defines a type only in its text; a solution has to"
      | (Bad_tests _ as bad), Feasible missing ->
          (* If the statement's prose defines all missing names, the tests have to type-check with these definitions. *)
          let defined = List.filter (function Feasible.Type _ | Constructor _ -> true | _ -> false) missing in
          if defined = missing then records bad else records first
      | _, first -> records first)

(* Asserts that compare functions, which raises: only a warning, since the tests may expect it. *)
let comparisons_of_functions environment ~given ~signature items =
  let solution = Feasible.with_prelude (usable environment given @ signature) in
  List.concat_map
    (fun loc -> warning "functional_equality" (at loc "it compares functions, or values that contain functions, which raises"))
    (Functional.compared environment (solution @ items))

let everything environment ~name ~given ~prose ~signatures ~statement ~examples items =
  let inspected = inspect_asserts ~name items in
  let _, bound = Claims.known_constants items in
  let given_names = Scope.defined_values (parsed_definitions [ given ]) in
  let is_closed = Claims.is_closed ~given:(fun used -> List.mem used given_names) ~bound ~name in
  let no_assert = if inspected = [] then cause "no_assert" "the tests hold no assert" else [] in
  let parsed = List.map (Job.parse ~file:"signature.ml") signatures in
  let fits =
    match (List.find_map Result.to_option parsed, parsed) with
    | Some signature, _ ->
        let found = feasibility environment ~given ~prose ~signature ~statement items in
        let conflict =
          (not (List.mem "cause" found))
          && Feasible.results_conflict environment ~given:(usable environment given) (calls_of ~name inspected)
        in
        found
        @ comparisons_of_functions environment ~given ~signature items
        @
        if conflict then
          cause "results_of_several_types" "the asserts require results of different types for arguments of the same types"
        else []
    | None, Error exn :: _ -> cause "signature_does_not_parse" (describe_fault (Feasible.fault_of exn))
    | None, _ -> []
  in
  let truth =
    if Claims.rebinds_equality items then [] else impossible items inspected @ contradictions ~is_closed inspected
  in
  no_assert @ fits @ truth @ disagreements ~is_closed examples inspected
  @ List.concat_map (assert_record ~name examples) inspected

let rec take count = function
  | head :: tail when count > 0 ->
      let taken, rest = take (count - 1) tail in
      (head :: taken, rest)
  | rest -> ([], rest)

let counted = function count :: rest -> take (int_of_string count) rest | [] -> ([], [])

let answer environment = function
  | mode :: name :: given :: tests :: statement :: rest -> (
      let signatures, rest = counted rest in
      let prose, rest = counted rest in
      let examples = Shown.examples_of ~name rest in
      match (Job.parse ~file:"tests.ml" tests, mode) with
      | Error exn, _ -> cause "tests_do_not_parse" (describe_fault (Feasible.fault_of exn))
      | Ok items, "examples" -> List.concat_map (assert_record ~name examples) (inspect_asserts ~name items)
      | Ok items, _ -> everything environment ~name ~given ~prose ~signatures ~statement ~examples items)
  | _ -> failwith "malformed request"
