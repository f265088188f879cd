;; A function whose instances never finish to start.
(component
  (core module $endless
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "handle") (param i32 i32 i32 i32) (result i32) unreachable)
    (func $start (loop $for-ever (br $for-ever)))
    (start $start))
  (core instance $i (instantiate $endless))
  (type $payload' (record (field "content-type" string) (field "body" (list u8))))
  (export $payload "payload" (type $payload'))
  (type $error' (record (field "code" string) (field "message" string)))
  (export $error "error" (type $error'))
  (type $handle (func (param "input" $payload) (result (result $payload (error $error)))))
  (func $handle (type $handle)
    (canon lift (core func $i "handle")
      (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (export "handle" (func $handle)))
