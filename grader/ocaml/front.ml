(* The compiler of one grader: parse, apply the language filter, type-check, rewrite the tests, produce bytecode in memory.

   Two processes.  The *supervisor* starts once with the standard library's interfaces loaded and forwards requests.  The
   *worker*, its fork, compiles many jobs in a row, since a fork per job would cost more than the compilation.  hygiene.ml
   isolates the jobs from one another.  A program that exhausts the compiler ends the worker, and the supervisor forks the
   next one.

   usage: front RUNNER  (the runner's executable, whose slots the bytecode is linked against)
   request:  "inspect"; CPU seconds; the request of inspect.ml      answer: the answer of inspect.ml
   request:  "grade"; compile CPU seconds; name; statement's definitions; tests; candidate programs ("s" for a whole program
             or "b" for one with the signature in front, then the source), best first
   answer:   outcome; index of the chosen candidate; message; errors (line, message, line, message, ...); number of steps;
             owner of each assert; blob
             or "died"; how; owner of each assert *)

let jobs_per_worker = 1000
let large_heap_words = 4 * 1024 * 1024

let cpu_deadline seconds = ignore (Unix.setitimer Unix.ITIMER_PROF { Unix.it_interval = 0.0; it_value = seconds })

let owners tests = [ Job.owners (Job.plan_of (Job.parse ~file:"tests.ml" tests)) ]

let answer ~image ~environment = function
  | "inspect" :: _ :: fields -> Inspect.answer environment fields
  | "owners" :: _ :: tests :: _ -> owners tests
  | "grade" :: _ :: name :: given :: tests :: candidates ->
      Job.fields (Job.grade ~image ~environment ~name ~given ~tests ~candidates)
  | _ -> failwith "malformed request"

(* The worker.  If it dies within a job, the program exhausted the parser or the type checker.  A byte before each answer
   tells whether the worker stays. *)
let work ~image ~environment requests answers =
  Contain.compiler ~library:Config.standard_library;
  (* A job allocates about half a million words.  With a minor heap of that size, and a minor collection when nothing in it
     is alive any more, the major heap stays unchanged and shared with the supervisor. *)
  Gc.set { (Gc.get ()) with minor_heap_size = Compat.roomy_minor_heap; space_overhead = 100 };
  let rec loop jobs_left =
    let fields = Wire.decode (Wire.receive_frame requests) in
    cpu_deadline (float_of_string (List.nth fields 1));
    let answered = Hygiene.fresh (fun () -> answer ~image ~environment fields) in
    cpu_deadline 0.0;
    let stays = jobs_left > 1 && (Gc.quick_stat ()).heap_words < large_heap_words in
    Wire.write_all answers (Bytes.of_string (if stays then "s" else "l")) 0 1;
    Wire.send answers answered;
    Gc.minor ();
    if stays then loop (jobs_left - 1)
  in
  match loop jobs_per_worker with () | (exception Wire.Closed) -> Unix._exit 0

type worker = { pid : int; requests : Unix.file_descr; answers : Unix.file_descr }

let start_worker ~inherited run =
  let theirs_in, ours_out = Unix.pipe ~cloexec:true () and ours_in, theirs_out = Unix.pipe ~cloexec:true () in
  match Unix.fork () with
  | 0 ->
      List.iter Unix.close (ours_out :: ours_in :: inherited);
      run theirs_in theirs_out
  | pid ->
      List.iter Unix.close [ theirs_in; theirs_out ];
      { pid; requests = ours_out; answers = ours_in }

let end_of worker =
  List.iter Unix.close [ worker.requests; worker.answers ];
  match snd (Unix.waitpid [] worker.pid) with
  | WEXITED code when code = Contain.layer_failed_status -> exit code
  (* Status 2 is OCaml's for an uncaught exception: here Stack_overflow or Out_of_memory. *)
  | WEXITED code when code <> 2 -> "it failed with exit status " ^ string_of_int code
  | WSIGNALED signal when signal = Sys.sigprof || signal = Sys.sigxcpu -> "out of CPU time"
  | WEXITED _ | WSIGNALED _ | WSTOPPED _ -> "out of memory or stack"

(* The supervisor. *)
let serve ~start requests answers =
  let worker = ref (start ()) and request = Wire.parcel () and answer = Wire.parcel () in
  let renew () =
    let how = end_of !worker in
    worker := start ();
    how
  in
  let ask hand_over =
    match
      hand_over !worker.requests;
      let stays = Wire.read_exactly !worker.answers 1 in
      Wire.pick_up !worker.answers answer;
      stays
    with
    | "s" -> Ok ()
    | _ -> ignore (renew ()); Ok ()
    | exception (Wire.Closed | Unix.Unix_error (EPIPE, _, _)) -> Error (renew ())
  in
  let count_asserts () =
    match Wire.contents request with
    | "grade" :: seconds :: _name :: _given :: tests :: _ -> (
        match ask (fun pipe -> Wire.send pipe [ "owners"; seconds; tests ]) with
        | Ok () -> Wire.contents answer
        | Error _ -> [ "" ])
    | _ -> [ "" ]
  in
  let rec loop () =
    Wire.pick_up requests request;
    (match ask (fun pipe -> Wire.hand_over pipe request) with
    | Ok () -> Wire.hand_over answers answer
    | Error how -> Wire.send answers ("died" :: how :: count_asserts ()));
    loop ()
  in
  try loop () with Wire.Closed -> Unix.close !worker.requests

(* Loads every interface that a completion may name before the first fork: workers then read no files, and no job leaves a
   module loaded for the next. *)
let warm_up environment =
  let load (name, _) =
    match Job.parse ~file:"warm_up.ml" (Printf.sprintf "let _ = let open! %s in ()" name) with
    | Ok items -> ignore (Job.reported (fun () -> Job.type_items environment items))
    | Error exn -> raise exn
  in
  let applied = "module M = Map.Make (Int) module S = Set.Make (String) module H = Hashtbl.Make (String) let f = Printf.sprintf \"%d\" 1" in
  List.iter load Policy.modules;
  ignore (Job.reported (fun () -> Job.type_items environment (Result.get_ok (Job.parse ~file:"warm_up.ml" applied))))

let () =
  let requests, answers = Wire.take_over_standard_descriptors () in
  Sys.set_signal Sys.sigpipe Sys.Signal_ignore;
  ignore (Warnings.parse_options false "-a");
  Clflags.error_style := Some Misc.Error_style.Short;
  Clflags.color := Some Misc.Color.Never;
  Compat.filter_loaded_interfaces Policy.filter_unit;
  let image = Compat.read_image Sys.argv.(1) in
  let environment = Job.base_environment () in
  warm_up environment;
  Hygiene.fresh ignore;
  Gc.compact ();
  Wire.send answers [ "ready"; Sys.ocaml_version; String.concat " " (Contain.describe ()) ];
  let start () = start_worker ~inherited:[ requests; answers ] (work ~image ~environment) in
  serve ~start requests answers
