(* The compiler that serves one grader: parse, refuse, type-check, rewrite the tests, and produce bytecode in memory.

   Started once with the standard library's interfaces loaded; every job runs in a fork of it, so that no job can leave
   anything behind, and a bomb costs only its own fork.

   usage: front RUNNER  (the runner's executable, whose slots the bytecode is linked against)
   request:  "inspect"; CPU seconds; what inspect.ml asks for       answer: what inspect.ml says
   request:  "grade"; compile CPU seconds; name; statement's definitions; tests; candidate sources ("s" whole program or
             "b" signature put in front, then the text) in order of preference
   answer:   outcome; chosen candidate; diagnostics; number of type errors; number of steps; owner of each assert; blob
             or "died"; how; owner of each assert *)

let cpu_deadline seconds =
  ignore (Unix.setitimer Unix.ITIMER_PROF { Unix.it_interval = 0.0; it_value = seconds })

(* One job in a fork.  A fork that dies without an answer is the program's doing (a bomb for the parser or the checker). *)
let in_fork work =
  let reading, writing = Unix.pipe ~cloexec:true () in
  match Unix.fork () with
  | 0 ->
      Unix.close reading;
      let frame = Wire.encode (work ()) in
      Wire.write_all writing (Bytes.unsafe_of_string frame) 0 (String.length frame);
      Unix._exit 0
  | child -> (
      Unix.close writing;
      let frame = Wire.read_to_end reading in
      Unix.close reading;
      match snd (Unix.waitpid [] child) with
      | WEXITED 0 -> Wire.decode frame
      | WEXITED code -> [ "died"; "it failed with exit status " ^ string_of_int code ]
      | WSIGNALED signal when signal = Sys.sigprof -> [ "died"; "out of CPU time" ]
      | WSIGNALED _ | WSTOPPED _ -> [ "died"; "out of memory or stack" ])

let serve ~image ~environment requests answers =
  let rec loop () =
    match Wire.receive requests with
    | "inspect" :: seconds :: fields ->
        let work () =
          cpu_deadline (float_of_string seconds);
          Inspect.answer environment fields
        in
        Wire.send answers (in_fork work);
        loop ()
    | "grade" :: seconds :: name :: given :: tests :: candidates ->
        let work () =
          cpu_deadline (float_of_string seconds);
          Job.fields (Job.grade ~image ~environment ~name ~given ~tests ~candidates)
        and count_asserts () =
          cpu_deadline (float_of_string seconds);
          [ Job.owners (Job.plan_of (Job.parse ~file:"tests.ml" tests)) ]
        in
        let answer = match in_fork work with "died" :: _ as death -> death @ in_fork count_asserts | answer -> answer in
        Wire.send answers answer;
        loop ()
    | _ -> failwith "malformed request"
    | exception Wire.Closed -> ()
  in
  loop ()

(* Loads the interfaces that nearly every program needs before the first fork, once for all of them. *)
let warm_up environment =
  let source =
    "let _ = (List.map, Array.map, String.length, Hashtbl.hash, Printf.sprintf \"%d\" 1, Buffer.create, Option.map) \
     module M = Map.Make (Int) module S = Set.Make (String) let _ = (Char.code, Bytes.get, Queue.create, Stack.create)"
  in
  match Job.parse ~file:"warm_up.ml" source with
  | Ok items -> ignore (Job.type_items environment items)
  | Error exn -> raise exn

let () =
  let requests, answers = Wire.take_over_standard_descriptors () in
  ignore (Warnings.parse_options false "-a");
  Clflags.error_style := Some Misc.Error_style.Short;
  Clflags.color := Some Misc.Color.Never;
  Compat.filter_loaded_interfaces Policy.filter_unit;
  let image = Compat.read_image Sys.argv.(1) in
  let environment = Compat.initial_environment ~unit_name:Job.unit_name in
  warm_up environment;
  Wire.send answers [ "ready"; Sys.ocaml_version ];
  serve ~image ~environment requests answers
