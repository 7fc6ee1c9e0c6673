(* One completion against one problem's tests: parse, refuse, type-check, rewrite the tests, and produce bytecode. *)

let unit_name = "Job"

type verdict = Syntax_error | Denied | Type_error | Interface | Ready of string  (* the blob for the runner *)

type answer = {
  verdict : verdict;
  chosen : int;
  diagnostics : string;
  type_errors : int;
  plan : Rewrite.plan;
}

let outcome_name = function
  | Syntax_error -> "syntax_error"
  | Denied -> "denied"
  | Type_error -> "type_error"
  | Interface -> "interface"
  | Ready _ -> "ready"

let message_of exn =
  match Location.error_of_exn exn with
  | Some (`Ok report) -> Format.asprintf "%a" Location.print_report report
  | Some `Already_displayed | None -> Printexc.to_string exn

(* Errors that the compiler reports about a program; anything else is a fault of ours and ends the fork. *)
let reported work =
  match work () with
  | result -> Ok result
  | exception ((Out_of_memory | Stack_overflow) as exn) -> raise exn
  | exception exn when Location.error_of_exn exn <> None -> Error exn

let lexbuf_of ~file source =
  let lexbuf = Lexing.from_string source in
  Location.init lexbuf file;
  lexbuf

let parse ~file source = reported (fun () -> Parse.implementation (lexbuf_of ~file source))

let denied_in_tokens source =
  let lexbuf = lexbuf_of ~file:"completion.ml" source in
  Lexer.init ();
  let rec scan () =
    match Lexer.token lexbuf with
    | Parser.EOF -> None
    | token -> ( match Policy.denied_token token with Some what -> Some what | None -> scan ())
  in
  scan ()

(* A name that exists, but that completions may not use, is unbound for the type checker. *)
let denied_by exn =
  let hide : Longident.t -> Longident.t = function
    | Lident name -> Lident (Policy.hidden name)
    | Ldot (prefix, name) -> Ldot (prefix, Policy.hidden name)
    | Lapply _ as other -> other
  in
  let exists find lid environment = match find (hide lid) environment with _ -> true | exception Not_found -> false in
  let named lid = Some (String.concat "." (Longident.flatten lid)) in
  match exn with
  | Env.Error (Lookup_error (_, environment, Unbound_value (lid, _))) when exists Env.find_value_by_name lid environment
    ->
      named lid
  | Env.Error (Lookup_error (_, environment, Unbound_module lid)) when exists Env.find_module_by_name lid environment ->
      named lid
  | Env.Error (Lookup_error (_, _, Unbound_module (Lident name))) when List.mem name Policy.foreign_units -> Some name
  | _ -> None

let is_unbound name = function
  | Env.Error (Lookup_error (_, _, Unbound_value (Lident unbound, _))) -> unbound = name
  | _ -> false

let type_items environment items =
  Typecore.reset_delayed_checks ();
  let typed = Compat.type_structure environment items in
  Typecore.force_delayed_checks ();
  typed

(* The candidate to grade: the first that parses and binds the problem's name, else the first that parses. *)
type candidate = { index : int; has_signature : bool; source : string; parsed : (Parsetree.structure, exn) result }

let choose ~name candidates =
  let candidate index text =
    let source = String.sub text 1 (String.length text - 1) in
    { index; has_signature = text.[0] = 'b'; source; parsed = parse ~file:"completion.ml" source }
  in
  let candidates = List.mapi candidate candidates in
  let parses candidate = Result.is_ok candidate.parsed in
  let binds candidate =
    match candidate.parsed with Ok items -> List.mem name (Scope.defined_values items) | Error _ -> false
  in
  match (List.find_opt binds candidates, List.find_opt parses candidates) with
  | Some candidate, _ | None, Some candidate -> candidate
  | None, None -> List.hd candidates

let make_recursive : Parsetree.structure -> Parsetree.structure = function
  | ({ pstr_desc = Pstr_value (Nonrecursive, bindings); _ } as first) :: rest ->
      { first with pstr_desc = Pstr_value (Recursive, bindings) } :: rest
  | items -> items

(* Unchecked functions of the library that are denied have checked twins of the same type, which serve an honest program
   as well. *)
let checked_twin = function
  | "unsafe_chr" -> Some "chr"
  | "unsafe_of_int" -> Some "of_int"
  | "unsafe_to_char" -> Some "to_char"
  | "unsafe_to_string" -> Some "to_string"
  | "unsafe_of_string" -> Some "of_string"
  | "unsafe_blit" -> Some "blit"
  | "unsafe_blit_string" -> Some "blit_string"
  | "unsafe_fill" -> Some "fill"
  | _ -> None

let twin_of exn : (Longident.t * Longident.t) option =
  match (exn, denied_by exn) with
  | Env.Error (Lookup_error (_, _, Unbound_value ((Lident name as lid), _))), Some _ ->
      Option.map (fun twin -> (lid, Longident.Lident twin)) (checked_twin name)
  | Env.Error (Lookup_error (_, _, Unbound_value ((Ldot (prefix, name) as lid), _))), Some _ ->
      Option.map (fun twin -> (lid, Longident.Ldot (prefix, twin))) (checked_twin name)
  | _ -> None

let replace_name (name, replacement) items =
  let default = Ast_mapper.default_mapper in
  let expr mapper (expression : Parsetree.expression) =
    match expression.pexp_desc with
    | Pexp_ident ({ txt; _ } as located) when txt = name ->
        { expression with pexp_desc = Pexp_ident { located with txt = replacement } }
    | _ -> default.expr mapper expression
  in
  let mapper = { default with expr } in
  mapper.structure mapper items

(* Where the signature was put in front, a [rec] that it lacks and the body needs is the problem's omission: the model was
   never shown a way to add it.  What a completion spells out itself is taken as it stands. *)
let rec type_solution environment ~name ~may_add_rec items =
  match reported (fun () -> type_items environment [ Scope.solution_module items ]) with
  | Error exn when may_add_rec && is_unbound name exn ->
      type_solution environment ~name ~may_add_rec:false (make_recursive items)
  | Error exn as failure -> (
      match twin_of exn with
      | Some names -> type_solution environment ~name ~may_add_rec (replace_name names items)
      | None -> failure)
  | Ok _ as typed -> typed

exception Forbidden_primitive of string

let link (image : Compat.image) (bytecode : Compat.bytecode) =
  let slots = Hashtbl.create 8 and next = ref image.num_slots and literals = ref [] in
  let new_slot () = incr next; !next - 1 in
  let own_slot name =
    match Hashtbl.find_opt slots name with
    | Some slot -> slot
    | None -> let slot = new_slot () in Hashtbl.replace slots name slot; slot
  in
  let target : Compat.relocation -> int = function
    | Literal value -> let slot = new_slot () in literals := (slot, value) :: !literals; slot
    | Set_global name -> own_slot name
    | Get_global name when name = unit_name -> own_slot name
    | Get_global name -> Hashtbl.find image.slots name
    | Primitive name when Policy.forbidden_primitive name -> raise (Forbidden_primitive name)
    | Primitive name -> Hashtbl.find image.primitives name
  in
  let patch (relocation, position) = Bytes.set_int32_le bytecode.code position (Int32.of_int (target relocation)) in
  List.iter patch bytecode.relocations;
  let unit_slot = own_slot unit_name in
  Marshal.to_string (bytecode.code, !literals, !next, unit_slot) []

let type_given environment source =
  let attempt items = reported (fun () -> type_items environment (Scope.foundations items)) in
  let items = match parse ~file:"statement.ml" source with Ok items -> items | Error _ -> [] in
  match attempt items with
  | Ok typed -> (items, typed)
  (* The statement's own definitions are broken: the completion has to do without them. *)
  | Error _ -> ([], Result.get_ok (attempt []))

let merge (first : Typedtree.structure) (second : Typedtree.structure) : Typedtree.structure =
  {
    str_items = first.str_items @ second.str_items;
    str_type = first.str_type @ second.str_type;
    str_final_env = second.str_final_env;
  }

let plan_of tests = Rewrite.tests (match tests with Ok items -> items | Error _ -> [])
let owners plan = String.concat " " (List.map string_of_int plan.Rewrite.owners)

(* The stages of a job. Each one hands on what the next one needs, or ends the job with a verdict. *)

type stop = { because : verdict; message : string; errors : int }

let ( let* ) = Result.bind
let stop ?(errors = 0) because message = Error { because; message; errors }
let may_not_use what = stop Denied (what ^ " may not be used")
let require condition failure = if condition then Ok () else failure ()

let parsed candidate =
  match candidate.parsed with
  | Error exn -> stop Syntax_error (message_of exn)
  | Ok items -> ( match denied_in_tokens candidate.source with Some what -> may_not_use what | None -> Ok items)

let typed_solution environment ~name candidate items =
  match type_solution environment ~name ~may_add_rec:candidate.has_signature items with
  | Ok typed -> Ok typed
  | Error exn -> (
      match denied_by exn with
      | Some what -> may_not_use what
      | None -> stop ~errors:1 Type_error (message_of exn))

let typed_tests environment ~names ~tests plan =
  match tests with
  | Error exn -> stop Interface ("the problem's tests do not parse: " ^ message_of exn)
  | Ok _ -> (
      let run = Scope.run_function ~problem_names:names ~tests:plan.Rewrite.structure in
      match reported (fun () -> type_items environment [ run ]) with
      | Ok (run, _, _) -> Ok run
      | Error exn -> stop Interface (message_of exn))

let linked image structure =
  match reported (fun () -> link image (Compat.compile ~unit_name structure)) with
  | Ok blob -> Ok blob
  | Error exn -> stop Interface (message_of exn)
  | exception Forbidden_primitive name -> may_not_use name

let grade ~image ~environment ~name ~given ~tests ~candidates =
  let tests = parse ~file:"tests.ml" tests in
  let plan = plan_of tests in
  let candidate = choose ~name candidates in
  let outcome =
    let* items = parsed candidate in
    let given_items, (foundations, _, env) = type_given environment given in
    let* solution, signature, env = typed_solution env ~name candidate items in
    let undefined () = stop Interface ("the completion does not define " ^ name) in
    let* () = require (name = "" || Scope.binds_value signature name) undefined in
    let opened = Scope.opened_constructors env given_items in
    let no_constructors () = stop Interface ("no constructors of the problem's type: " ^ String.concat ", " opened) in
    let* () = require (opened = []) no_constructors in
    let names = Scope.problem_names ~environment ~signature ~given_items ~name in
    let* run = typed_tests env ~names ~tests plan in
    linked image (merge (merge foundations solution) run)
  in
  let answer verdict diagnostics type_errors = { verdict; chosen = candidate.index; diagnostics; type_errors; plan } in
  match outcome with
  | Ok blob -> answer (Ready blob) "" 0
  | Error { because; message; errors } -> answer because message errors

let fields { verdict; chosen; diagnostics; type_errors; plan } =
  let blob = match verdict with Ready blob -> blob | _ -> "" in
  [ outcome_name verdict; string_of_int chosen; diagnostics; string_of_int type_errors; string_of_int plan.num_steps;
    owners plan; blob ]
