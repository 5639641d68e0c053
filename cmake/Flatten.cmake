# kascade_flatten(output file dependencies...): `output` becomes `file` with every `#include "..."` replaced by what it
# names, each file once. For kernels that are compiled where there are no files to include.
set(kascade_flatten_script ${CMAKE_CURRENT_LIST_DIR}/flatten_file.cmake)

function(kascade_flatten output file)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${file} -DOUTPUT=${output} -DROOT=${PROJECT_SOURCE_DIR} -P ${kascade_flatten_script}
    DEPENDS ${file} ${ARGN} ${kascade_flatten_script}
    COMMENT "Flattening ${output}"
    VERBATIM)
endfunction()
