(* One completion against one problem's tests: parse, refuse, type-check, rewrite the tests, and produce bytecode. *)

let unit_name = "Job"

type verdict = Syntax_error | Denied | Type_error | Interface | Ready of string  (* the blob for the runner *)

type answer = {
  verdict : verdict;
  chosen : int;
  message : string;  (* where the tests are concerned; what is wrong with the program itself stands in [errors] *)
  errors : Errors.error list;
  plan : Rewrite.plan;
}

let outcome_name = function
  | Syntax_error -> "syntax_error"
  | Denied -> "denied"
  | Type_error -> "type_error"
  | Interface -> "interface"
  | Ready _ -> "ready"

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

let type_items environment items =
  Typecore.reset_delayed_checks ();
  let typed = Compat.type_structure environment items in
  Typecore.force_delayed_checks ();
  typed

(* Where every job starts: the filtered standard library, and the real one under a name that nothing can shadow. *)
let base_environment () =
  let _, _, environment = type_items (Compat.initial_environment ~unit_name) [ Scope.standard ] in
  environment

(* The candidate to grade: the first that parses and binds the problem's name, else the first that parses. *)
type candidate = { index : int; has_signature : bool; source : string; parsed : (Parsetree.structure, exn) result }

let choose ~name candidates =
  let candidate index text =
    let source = String.sub text 1 (String.length text - 1) in
    { index; has_signature = text.[0] = 'b'; source; parsed = parse ~file:"completion.ml" source }
  in
  let parses candidate = Result.is_ok candidate.parsed in
  let binds candidate =
    match candidate.parsed with Ok items -> List.mem name (Scope.defined_values items) | Error _ -> false
  in
  (* Later candidates are parsed only where the earlier ones do not bind the name. *)
  let rec search index parsed = function
    | [] -> (
        let parsed = List.rev parsed in
        match List.find_opt parses parsed with Some candidate -> candidate | None -> List.hd parsed)
    | text :: rest ->
        let candidate = candidate index text in
        if binds candidate then candidate else search (index + 1) (candidate :: parsed) rest
  in
  search 0 [] candidates

(* Where the signature was put in front, a [rec] that it lacks and the body needs is the problem's omission: the model was
   never shown a way to add it.  What a completion spells out itself is taken as it stands. *)
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
      (* The statement's own definitions are broken: the completion has to do without them. *)
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

(* The stages of a job. Each one hands on what the next one needs, or ends the job with a verdict. *)

type stop = { because : verdict; text : string; found : Errors.error list }

let ( let* ) = Result.bind
let stop ?(found = []) because text = Error { because; text; found }
let require condition failure = if condition then Ok () else failure ()

let may_not_use what where =
  let message = what ^ " may not be used" in
  stop ~found:[ { Errors.where; message; cause = Not_found } ] Denied ""

let parsed candidate =
  match candidate.parsed with
  | Error exn -> stop ~found:[ Errors.of_exn exn ] Syntax_error ""
  | Ok items -> (
      match Denied.in_source ~lexbuf:(lexbuf_of ~file:"completion.ml") candidate.source with
      | Some (what, where) -> may_not_use what where
      | None -> Ok items)

let typed_solution environment ~name ~given_items candidate items =
  let items = if candidate.has_signature then with_needed_rec environment ~name items else items in
  match type_solution environment ~given_items items with
  | Ok typed -> Ok typed
  | Error (items, exn) -> (
      let errors = Errors.find environment (Scope.with_given ~given_items items) ~first:exn in
      let denied error = Option.map (fun what -> (what, error.Errors.where)) (Denied.by error.Errors.cause) in
      match List.find_map denied errors with
      | Some (what, where) -> may_not_use what where
      | None -> stop ~found:errors Type_error "")

(* What a completion may not do to the names that the tests rely on. *)
let honest_names environment ~signature ~given_items ~tests items =
  let none names what = require (names = []) (fun () -> stop Interface (what ^ ": " ^ String.concat ", " names)) in
  let test_items = match tests with Ok items -> items | Error _ -> [] in
  let* () = none (Scope.opened_constructors environment given_items) "no constructors of the problem's type" in
  let* () = none (Scope.replaced_modules signature ~given_items items) "the statement's own is defined differently" in
  none (Scope.rebound_constructors ~tests:test_items items) "bound to another constructor"

let typed_tests environment ~names ~tests plan =
  match tests with
  | Error exn -> stop Interface ("the problem's tests do not parse: " ^ Errors.message_of exn)
  | Ok _ -> (
      let run = Scope.run_function ~problem_names:names ~tests:plan.Rewrite.structure in
      match reported (fun () -> type_items environment [ run ]) with
      | Ok (run, _, _) -> Ok run
      | Error exn -> stop Interface ("the tests do not fit: " ^ Errors.message_of exn))

let linked image structure =
  match reported (fun () -> Link.link image ~unit_name (Compat.compile ~unit_name structure)) with
  | Ok blob -> Ok blob
  | Error exn -> stop Interface (Errors.message_of exn)
  | exception Link.Forbidden_primitive name -> may_not_use name Location.none

(* The tests of a problem come once for each of its completions. *)
let planned =
  let known = Hashtbl.create 64 in
  fun source ->
    match Hashtbl.find_opt known source with
    | Some planned -> planned
    | None ->
        let tests = parse ~file:"tests.ml" source in
        if Hashtbl.length known >= 64 then Hashtbl.reset known;
        let planned = (tests, plan_of tests) in
        Hashtbl.replace known source planned;
        planned

let grade ~image ~environment ~name ~given ~tests ~candidates =
  let tests, plan = planned tests in
  let candidate = choose ~name candidates in
  let outcome =
    let* items = parsed candidate in
    let given_items, (given, env) = type_given environment given in
    let* () =
      match Denied.unsound_match ~given_items items with Some (what, where) -> may_not_use what where | None -> Ok ()
    in
    let* solution, signature, env = typed_solution env ~name ~given_items candidate items in
    let undefined () = stop Interface ("the completion does not define " ^ name) in
    let* () = require (name = "" || Scope.binds_value signature name) undefined in
    let* () = honest_names env ~signature ~given_items ~tests items in
    let names = Scope.problem_names ~environment ~signature ~given_items ~name in
    let* run = typed_tests (Scope.environment_of_tests env ~given_items) ~names ~tests plan in
    linked image (merge (merge given solution) run)
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
