(* One completion against one problem's tests: parse, refuse, type-check, rewrite the tests, and produce bytecode. *)

let unit_name = "Job"

type verdict = Syntax_error | Denied | Type_error | Interface | Ready of string  (* the blob for the runner *)

type answer = {
  verdict : verdict;
  chosen : int;
  message : string;  (* about the tests; errors in the program itself are in [errors] *)
  errors : Errors.error list;
  plan : Rewrite.plan;
}

let outcome_name = function
  | Syntax_error -> "syntax_error"
  | Denied -> "denied"
  | Type_error -> "type_error"
  | Interface -> "interface"
  | Ready _ -> "ready"

(* Errors that the compiler reports about a program; any other exception is a bug of the grader and ends the fork. *)
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

let type_items environment items =
  Typecore.reset_delayed_checks ();
  let typed = Compat.type_structure environment items in
  Typecore.force_delayed_checks ();
  typed

(* The initial environment of every job: the filtered standard library, and the real one under a name that nothing can
   shadow. *)
let base_environment () =
  let _, _, environment = type_items (Compat.initial_environment ~unit_name) [ Scope.standard ] in
  environment

(* The candidate to compile: the first that parses and binds the problem's name, else the first that parses. *)
type candidate = {
  index : int;
  has_signature : bool;
  source : string;
  parsed : (Parsetree.structure, exn) result;
  refused : (string * Location.t) option;  (* a toplevel directive that is refused *)
}

(* A source that does not parse may be a toplevel script. *)
let parse_candidate source =
  let file = "completion.ml" in
  match parse ~file source with
  | Error _ as failed when Directives.may_hold_some source -> (
      match reported (fun () -> Directives.parse (lexbuf_of ~file source)) with
      | Ok (Some (items, refused)) -> (Ok items, refused)
      | Ok None | Error _ -> (failed, None))
  | parsed -> (parsed, None)

let choose ~name candidates =
  let candidate index text =
    let source = String.sub text 1 (String.length text - 1) in
    let parsed, refused = parse_candidate source in
    { index; has_signature = text.[0] = 'b'; source; parsed; refused }
  in
  let parses candidate = Result.is_ok candidate.parsed in
  let binds candidate =
    match candidate.parsed with Ok items -> List.mem name (Scope.defined_values items) | Error _ -> false
  in
  (* Later candidates are parsed only if the earlier ones do not bind the name. *)
  let rec search index parsed = function
    | [] -> (
        let parsed = List.rev parsed in
        match List.find_opt parses parsed with Some candidate -> candidate | None -> List.hd parsed)
    | text :: rest ->
        let candidate = candidate index text in
        if binds candidate then candidate else search (index + 1) (candidate :: parsed) rest
  in
  search 0 [] candidates

(* If the signature was put in front and lacks a [rec] that the body needs, the problem is at fault, since the model had no
   way to add it.  A definition that the completion writes itself is not changed. *)
let with_needed_rec environment ~name items =
  let unbound = match Env.find_value_by_name (Lident name) environment with _ -> false | exception Not_found -> true in
  match items with
  | ({ Parsetree.pstr_desc = Pstr_value (Nonrecursive, bindings); _ } as first) :: rest
    when unbound && Scope.mentions name bindings ->
      { first with pstr_desc = Pstr_value (Recursive, bindings) } :: rest
  | _ -> items

let type_given environment source =
  let attempt items = reported (fun () -> type_items environment [ Scope.given_module items ]) in
  let none = ([], (Compat.no_structure environment, environment)) in
  match parse ~file:"statement.ml" source with
  | Error _ | Ok [] -> none
  | Ok items -> (
      match attempt items with
      | Ok (typed, _, environment) -> (items, (typed, environment))
      (* The statement's definitions are broken: the job continues without them. *)
      | Error _ -> none)

let rec type_solution environment ~given_items items =
  match reported (fun () -> type_items environment [ Scope.solution_module ~given_items items ]) with
  | Ok typed -> Ok typed
  | Error exn -> (
      match Denied.twin exn with
      | Some names -> type_solution environment ~given_items (Denied.replace names items)
      | None -> Error (items, exn))

let merge (first : Typedtree.structure) (second : Typedtree.structure) : Typedtree.structure =
  {
    str_items = first.str_items @ second.str_items;
    str_type = first.str_type @ second.str_type;
    str_final_env = second.str_final_env;
  }

let plan_of tests = Rewrite.tests (match tests with Ok items -> items | Error _ -> [])
let owners plan = String.concat " " (List.map string_of_int plan.Rewrite.owners)

(* The stages of a job.  Each returns the input of the next, or ends the job with a verdict. *)

type stop = { because : verdict; text : string; found : Errors.error list }

let ( let* ) = Result.bind
let stop ?(found = []) because text = Error { because; text; found }
let require condition failure = if condition then Ok () else failure ()

let may_not_use what where =
  let message = what ^ " may not be used" in
  stop ~found:[ { Errors.where; message; cause = Not_found } ] Denied ""

let parsed candidate =
  match (candidate.parsed, candidate.refused) with
  | Error exn, _ -> stop ~found:[ Errors.of_exn exn ] Syntax_error ""
  | Ok _, Some (directive, where) ->
      (* A syntax error, as for a compiler; the message names the directive, since a toplevel would have accepted it. *)
      let message = "Syntax error: the directive " ^ directive ^ " may not be used" in
      stop ~found:[ { Errors.where; message; cause = Not_found } ] Syntax_error ""
  | Ok items, None -> (
      match Denied.in_source ~lexbuf:(lexbuf_of ~file:"completion.ml") candidate.source with
      | Some (what, where) -> may_not_use what where
      | None -> Ok items)

let typed_solution environment ~given_items items =
  match type_solution environment ~given_items items with
  | Ok typed -> Ok typed
  | Error (items, exn) -> (
      let errors = Errors.find environment (Scope.with_given ~given_items items) ~first:exn in
      let denied error = Option.map (fun what -> (what, error.Errors.where)) (Denied.by error.Errors.cause) in
      match List.find_map denied errors with
      | Some (what, where) -> may_not_use what where
      | None -> stop ~found:errors Type_error "")

(* Modules that the completion defines and opens ([module S = struct ... end open S]) are in the scope of the tests, as in
   plain OCaml: such an open is typed as an include.  If that defines two types of one name, only the problem's value is
   exported. *)
let defining_solution environment ~name ~given_items candidate items =
  let items = if candidate.has_signature then with_needed_rec environment ~name items else items in
  let defines signature = name = "" || Scope.binds_value signature name in
  let attempt items =
    match type_solution environment ~given_items items with
    | Ok ((_, signature, _) as typed) when defines signature -> Some (items, typed)
    | Ok _ | Error _ -> None
  in
  match Option.bind (Scope.with_opened_included items) attempt with
  | Some defined -> Ok defined
  | None -> (
      let* (_, signature, _) as typed = typed_solution environment ~given_items items in
      if defines signature then Ok (items, typed)
      else
        match List.find_map attempt (Scope.with_opened_value ~name items) with
        | Some defined -> Ok defined
        | None -> stop Interface ("the completion does not define " ^ name))

(* Checks that the completion does not rebind names that the tests rely on. *)
let honest_names environment ~signature ~given_items ~tests items =
  let none names what = require (names = []) (fun () -> stop Interface (what ^ ": " ^ String.concat ", " names)) in
  let test_items = match tests with Ok items -> items | Error _ -> [] in
  let* () = none (Scope.opened_constructors environment given_items) "no constructors of the problem's type" in
  let* () = none (Scope.replaced_modules signature ~given_items items) "the statement's own is defined differently" in
  none (Scope.rebound_constructors ~tests:test_items items) "bound to another constructor"

let type_run environment ~names plan =
  let run = Scope.run_function ~problem_names:names ~tests:plan.Rewrite.structure in
  reported (fun () ->
      let run, _, _ = type_items environment [ run ] in
      run)

let typed_tests environment ~names ~tests plan =
  match tests with
  | Error exn -> stop Interface ("the problem's tests do not parse: " ^ Errors.message_of exn)
  | Ok _ -> (
      match type_run environment ~names plan with
      | Ok run -> Ok run
      | Error exn -> stop Interface ("the tests do not fit: " ^ Errors.message_of exn))

let linked image units =
  match reported (fun () -> Link.link image ~unit_name (List.map (fun compile -> compile ()) units)) with
  | Ok blob -> Ok blob
  | Error exn -> stop Interface (Errors.message_of exn)
  | exception Link.Forbidden_primitive name -> may_not_use name Location.none

let compiled ~unit_name structure () = (unit_name, Compat.compile ~unit_name structure)

(* Cache of what the completions of a problem share; it is small and is cleared when full. *)
let recalled table key work =
  match Hashtbl.find_opt table key with
  | Some result -> result
  | None ->
      let result = work () in
      if Hashtbl.length table >= 64 then Hashtbl.reset table;
      Hashtbl.replace table key result;
      result

let plans = Hashtbl.create 64

let planned source =
  recalled plans source (fun () ->
      let tests = parse ~file:"tests.ml" source in
      (tests, plan_of tests))

(* Tests compiled separately.  If a completion defines only values, the tests can see just one of them, the problem's own:
   all other names come from the standard library, and any other name would be an error with such a completion anyway.  Tests
   that type-check that way are a unit of their own, compiled once for all functions of one type. *)

let tests_unit = "Tests"
let units_of_tests = Hashtbl.create 64

(* The item after the completion that exports the problem's value as the second one of the job's unit, and its type. *)
let only_value environment ~signature ~given_items ~tests ~name =
  if Result.is_error tests || given_items <> [] || name = "" || not (Scope.defines_only_values signature) then None
  else
    match type_items environment [ Scope.value_of Scope.solution name ] with
    | item, [ Types.Sig_value (_, value, _) ], _ -> Option.map (fun text -> (item, value, text)) (Messages.spelled value)
    | _ -> None

let tests_apart environment ~name ~source plan value text =
  recalled units_of_tests (source, name, text) (fun () ->
      let seen = Scope.environment_of_tests (Scope.with_only_value environment ~name value) ~given_items:[] in
      let run = type_run seen ~names:[ Scope.value_of Scope.solution name ] plan in
      let compile run = reported (compiled ~unit_name:tests_unit run) in
      Result.to_option (Result.bind run compile))

let grade ~image ~environment ~name ~given ~tests:source ~candidates =
  let tests, plan = planned source in
  let candidate = choose ~name candidates in
  let outcome =
    let* items = parsed candidate in
    let given_items, (given, env) = type_given environment given in
    let* () =
      match Denied.unsound_match ~given_items items with Some (what, where) -> may_not_use what where | None -> Ok ()
    in
    let* items, (solution, signature, env) = defining_solution env ~name ~given_items candidate items in
    let* () = honest_names env ~signature ~given_items ~tests items in
    let apart (item, value, text) =
      Option.map (fun tests -> (item, tests)) (tests_apart environment ~name ~source plan value text)
    in
    match Option.bind (only_value env ~signature ~given_items ~tests ~name) apart with
    | Some (item, tests) -> linked image [ compiled ~unit_name (merge solution item); Fun.const tests ]
    | None ->
        let names = Scope.problem_names ~environment ~signature ~given_items ~name in
        let* run = typed_tests (Scope.environment_of_tests env ~given_items) ~names ~tests plan in
        linked image [ compiled ~unit_name (merge (merge given solution) run) ]
  in
  let answer verdict message errors = { verdict; chosen = candidate.index; message; errors; plan } in
  match outcome with
  | Ok blob -> answer (Ready blob) "" []
  | Error { because; text; found } -> answer because text found

let fields { verdict; chosen; message; errors; plan } =
  let blob = match verdict with Ready blob -> blob | _ -> "" in
  let place (error : Errors.error) =
    if error.where.loc_ghost then 0 else error.where.loc_start.pos_lnum
  in
  let found = List.concat_map (fun error -> [ string_of_int (place error); error.Errors.message ]) errors in
  [ outcome_name verdict; string_of_int chosen; message; Wire.encode found; string_of_int plan.num_steps; owners plan; blob ]
