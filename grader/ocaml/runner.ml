(* Runs compiled completions, one fork each, against the tests that were compiled with them.

   The runner is bytecode, since it loads code at run time.  The fork reports through memory (report.ml) that the completion
   cannot name: code that was type-checked under policy.ml has no access to a descriptor, to a channel other than the standard
   ones (the null device), or to the functions below.  The fork ends with [_exit]; its exit status and output are ignored.

   Time is CPU time, limited by interval timers with their default action, which ends the process: a program cannot handle
   them, and a loop inside the runtime (comparing cyclic values) ends as well.  If a fork dies in a step, the next fork skips
   that step and those done before.

   request: blob; number of steps; CPU seconds per step; CPU seconds in all; wall seconds in all
   answer:  the report, one event per line:
     start N | done N | raised N MESSAGE     a step
     held K | false K | error K MESSAGE      an assert, the first time that it was true, was false, or raised
     begin K | left K | busy K               an assert that no step holds, the first times; busy: the last of them
     init MESSAGE                            the completion's top level, or set-up between steps, raised
     end                                     the tests ran to their end
     died N HOW                              the fork ended within step N (0: outside every step); HOW: time, wall, killed; or
                                             sandbox, if a sandbox layer of the kernel could not be applied *)

external global_data : unit -> Obj.t array = "caml_get_global_data"
external realloc_global_data : int -> unit = "caml_realloc_global"
external grow_stack : unit -> unit = "caravan_stack_grow"

exception Assertion_failed

type run = (int -> (unit -> unit) -> unit) -> (int -> (unit -> bool) -> unit) -> (int -> (unit -> bool) -> unit) -> (int -> exn) -> unit

(* Printers of the completion do not run here (policy.ml denies registering one); messages are cut, as an exception can hold
   any value. *)
let describe exn =
  let cut text = if String.length text > 200 then String.sub text 0 200 ^ "..." else text in
  match exn with
  | Failure text -> "Failure " ^ String.escaped (cut text)
  | Invalid_argument text -> "Invalid_argument " ^ String.escaped (cut text)
  | _ -> (
      let name = Printexc.exn_slot_name exn in
      match String.rindex_opt name '.' with
      | Some dot -> String.sub name (dot + 1) (String.length name - dot - 1)
      | None -> name)

let load blob =
  let (codes, literals, num_slots, last_slot) : bytes list * (int * Obj.t) list * int * int = Request.unmarshalled blob in
  realloc_global_data num_slots;
  List.iter (fun (slot, value) -> (global_data ()).(slot) <- value) literals;
  let starts = List.map Load.start codes in
  let run () : run =
    List.iter (fun start -> ignore (start ())) starts;
    let exported = (global_data ()).(last_slot) in
    Obj.obj (Obj.field exported (Obj.size exported - 1))
  in
  run

let arm timer seconds = ignore (Unix.setitimer timer { Unix.it_interval = 0.0; it_value = seconds })

let announced_times = 50

(* Runs in the fork; never returns. *)
let run_completion ~blob ~skipped ~step_seconds ~total_seconds =
  (* Success events may be written with the next event; failures and starts are written before any other code runs. *)
  let waiting = Buffer.create 256 in
  let note line = Buffer.add_string waiting line; Buffer.add_char waiting '\n' in
  let report line =
    note line;
    Report.add (Buffer.contents waiting);
    Buffer.clear waiting
  in
  let reset_step_timer () = arm Unix.ITIMER_PROF step_seconds in
  (* An assert in a loop reports each kind of event once. *)
  let failures = Hashtbl.create 16 and successes = Hashtbl.create 16 in
  let once seen index tell line =
    if not (Hashtbl.mem seen index) then begin
      Hashtbl.replace seen index ();
      tell line
    end
  in
  let held index = once successes index note ("held " ^ string_of_int index) in
  let failed index = once failures index report ("false " ^ string_of_int index) in
  let raised index exn = once failures index report (Printf.sprintf "error %d %s" index (describe exn)) in
  let step id body =
    if not skipped.(id) then begin
      report ("start " ^ string_of_int id);
      reset_step_timer ();
      (match body () with
      | () -> report ("done " ^ string_of_int id)
      | exception exn -> report (Printf.sprintf "raised %d %s" id (describe exn)));
      reset_step_timer ()
    end
  in
  (* An assert that no step holds (in a function that steps call) reports its begin and end, the first times. *)
  let begun = Hashtbl.create 16 in
  let announced index condition =
    if index > 0 then condition ()
    else begin
      let times = 1 + Option.value (Hashtbl.find_opt begun index) ~default:0 in
      Hashtbl.replace begun index times;
      if times > announced_times then condition ()
      else begin
        report ((if times = announced_times then "busy " else "begin ") ^ string_of_int (-index));
        Fun.protect condition ~finally:(fun () -> note ("left " ^ string_of_int (-index)))
      end
    end
  in
  let check_through index condition =
    if announced index condition then held (abs index) else failed (abs index)
  in
  let check index condition =
    match announced index condition with
    | true -> held (abs index)
    | false -> failed (abs index)
    | exception exn -> raised (abs index) exn
  in
  let failure index = failed (abs index); Assertion_failed in
  arm Unix.ITIMER_VIRTUAL total_seconds;
  Contain.completion ();
  let start = load blob in
  Request.forget ();
  reset_step_timer ();
  (match (start ()) step check check_through failure with
  | () -> report "end"
  | exception exn -> report ("init " ^ describe exn));
  Unix._exit 0

type attempt = { events : string list; finished : bool; inside : int; how : string }

(* The innermost step that started and did not end. *)
let innermost events =
  let follow stack event =
    match String.split_on_char ' ' event with
    | "start" :: id :: _ -> int_of_string id :: stack
    | ("done" | "raised") :: _ -> List.tl stack
    | _ -> stack
  in
  match List.fold_left follow [] events with [] -> 0 | id :: _ -> id

(* Waits for the end of the fork, the only process that holds the other end of [lifeline]. *)
let how_it_ends lifeline child ~wall_deadline =
  let rec wait () =
    let left = wall_deadline -. Unix.gettimeofday () in
    match Unix.select [ lifeline ] [] [] (Float.max 0.0 left) with
    | [], _, _ -> Unix.kill child Sys.sigkill; "wall"
    | _ -> if Unix.read lifeline (Bytes.create 1) 0 1 = 0 then "killed" else wait ()
  in
  let how = wait () in
  match snd (Unix.waitpid [] child) with
  | WSIGNALED signal when signal = Sys.sigprof || signal = Sys.sigvtalrm || signal = Sys.sigxcpu -> "time"
  | WEXITED code when code = Contain.layer_failed_status -> "sandbox"
  | _ -> how

let attempt ~requests ~answers ~wall_deadline start =
  let lifeline, held = Unix.pipe ~cloexec:true () in
  match Unix.fork () with
  | 0 ->
      List.iter Unix.close [ lifeline; requests; answers ];
      start ()
  | child ->
      Unix.close held;
      let how = how_it_ends lifeline child ~wall_deadline in
      Unix.close lifeline;
      let events = List.filter (fun line -> line <> "") (String.split_on_char '\n' (Report.take ())) in
      let ends event = event = "end" || String.length event > 5 && String.sub event 0 5 = "init " in
      { events; finished = List.exists ends events; inside = innermost events; how }

let children_seconds () =
  let times = Unix.times () in
  times.tms_cutime +. times.tms_cstime

let mark_done skipped event =
  match String.split_on_char ' ' event with
  | ("done" | "raised") :: id :: _ -> skipped.(int_of_string id) <- true
  | _ -> ()

(* A program that exceeded the limit once is likely to do so again, and if every assert loops, the limits are nearly the
   whole cost of grading.  Later steps get this fraction of the limit. *)
let later_share = 5.0

let run_job ~requests ~answers ~blob ~num_steps ~first_step_seconds ~total_seconds ~wall_seconds =
  let skipped = Array.make (num_steps + 1) false in
  let wall_deadline = Unix.gettimeofday () +. wall_seconds and began = children_seconds () in
  let rec again step_seconds =
    let left = total_seconds -. (children_seconds () -. began) in
    if left <= 0.0 then [ "died 0 time" ]
    else if Unix.gettimeofday () >= wall_deadline then [ "died 0 wall" ]
    else
      let start () = run_completion ~blob ~skipped ~step_seconds ~total_seconds:left in
      let { events; finished; inside; how } = attempt ~requests ~answers ~wall_deadline start in
      if finished then events
      else begin
        List.iter (mark_done skipped) events;
        skipped.(inside) <- true;
        let death = Printf.sprintf "died %d %s" inside how in
        let next = if how = "time" then Float.min step_seconds (first_step_seconds /. later_share) else step_seconds in
        events @ (death :: (if inside = 0 then [] else again next))
      end
  in
  again first_step_seconds

let serve requests answers =
  let rec loop () =
    match Request.receive requests with
    | blob, [ num_steps; step_seconds; total_seconds; wall_seconds ] ->
        let events =
          run_job ~requests ~answers ~blob ~num_steps:(int_of_string num_steps)
            ~first_step_seconds:(float_of_string step_seconds) ~total_seconds:(float_of_string total_seconds)
            ~wall_seconds:(float_of_string wall_seconds)
        in
        Wire.send answers events;
        loop ()
    | _ -> failwith "malformed request"
    | exception Wire.Closed -> ()
  in
  loop ()

let () =
  let requests, answers = Wire.take_over_standard_descriptors () in
  (* Memory that a fork has to copy. *)
  Gc.set { (Gc.get ()) with minor_heap_size = 64 * 1024 };
  Report.open_ ();
  grow_stack ();
  Wire.send answers [ "ready"; Sys.ocaml_version; String.concat " " (Contain.describe ()) ];
  serve requests answers
