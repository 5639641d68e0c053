# kascade_embed(target symbol file): makes `file` (text or binary, possibly generated) part of `target` as
#   const unsigned char symbol[]; const size_t symbol_size;
# followed by a zero byte that symbol_size does not count. The one way in which kernels get into the library.
set(kascade_embed_script ${CMAKE_CURRENT_LIST_DIR}/embed_file.cmake)

function(kascade_embed target symbol file)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.c)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DINPUT=${file} -DOUTPUT=${output} -DSYMBOL=${symbol} -P ${kascade_embed_script}
    DEPENDS ${file} ${kascade_embed_script}
    COMMENT "Embedding ${symbol}"
    VERBATIM)
  # The target may belong to another directory, which does not see this directory's commands.
  add_custom_target(embed_${symbol} DEPENDS ${output})
  add_dependencies(${target} embed_${symbol})
  target_sources(${target} PRIVATE ${output})
endfunction()
